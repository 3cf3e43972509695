-- Arm a rule at somebody's wish: what was evaluated before counts no more.
-- KEYS[1]  hash of the states of an account's rules
-- ARGV[1]  rule id
-- reply    1, or 0 if there is no such rule
local was = redis.call('HGET', KEYS[1], ARGV[1])
if not was then return 0 end
local before, firings, at = string.match(was, '^(%d+) %a+ %d+ (%d+) (%d+)$')
local clock = redis.call('TIME')
local revision = string.format('%d%06d', clock[1], clock[2])
if revision == before then revision = revision .. '1' end
redis.call('HSET', KEYS[1], ARGV[1],
  revision .. ' armed 00000000000000000000 ' .. firings .. ' ' .. at)
return 1
