-- Store a rule; one that is new or has changed is armed anew.
-- KEYS[1]  hash of an account's rules, {alerts:1}:rules
-- KEYS[2]  hash of their states, {alerts:1}:states, each `revision armed|fired position firings at`
-- ARGV[1]  rule id
-- ARGV[2]  rule as JSON
-- ARGV[3]  rules that an account may have
-- reply    1 stored, 0 it was there as it is, -1 the account has as many as it may have
local before = redis.call('HGET', KEYS[1], ARGV[1])
local state = redis.call('HGET', KEYS[2], ARGV[1])
if before == ARGV[2] and state then return 0 end
if not before and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[3]) then return -1 end
local clock = redis.call('TIME')
local revision = string.format('%d%06d', clock[1], clock[2])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[2], ARGV[1], revision .. ' armed 00000000000000000000 0 0')
return 1
