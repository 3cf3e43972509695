-- Give a lease back without a value.
-- KEYS[1]  the lease
-- ARGV[1]  its token
-- reply    1 given back | 0 it had been lost
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
