-- Drop a rule and its state.
-- KEYS[1]  hash of an account's rules
-- KEYS[2]  hash of their states
-- ARGV[1]  rule id
-- reply    1, or 0 if there was none
redis.call('HDEL', KEYS[2], ARGV[1])
return redis.call('HDEL', KEYS[1], ARGV[1])
