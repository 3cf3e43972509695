-- Mark a rule fired, or armed again, if that comes after what is known of it.
-- KEYS[1]  hash of the states of an account's rules, each `revision armed|fired position firings at`
-- ARGV[1]  rule id
-- ARGV[2]  revision of the rule that was evaluated
-- ARGV[3]  position in the ticks, 20 digits, compared as text
-- ARGV[4]  `fired` or `armed`
-- ARGV[5]  time of the alert in epoch milliseconds
-- reply    {1 or 0, the state now or nil}
local was = redis.call('HGET', KEYS[1], ARGV[1])
if not was then return {0, false} end
local revision, state, position, firings, at = string.match(was, '^(%d+) (%a+) (%d+) (%d+) (%d+)$')
if revision ~= ARGV[2] or state == ARGV[4] or ARGV[3] <= position then return {0, was} end
if ARGV[4] == 'fired' then
  firings = string.format('%d', firings + 1)
  at = ARGV[5]
end
local now = table.concat({revision, ARGV[4], ARGV[3], firings, at}, ' ')
redis.call('HSET', KEYS[1], ARGV[1], now)
return {1, now}
