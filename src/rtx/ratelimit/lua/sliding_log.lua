-- Exact sliding log: at most `limit` hits in any window, by the server's clock.
-- KEYS[1]  list of the times of the latest hits, oldest first, in microseconds
-- ARGV[1]  limit
-- ARGV[2]  window in microseconds
-- ARGV[3]  cost: hits asked for at once, all or none
-- ARGV[4]  1 to take them, 0 only to look
-- reply    {1 allowed or 0, hits left, microseconds until the cost fits (0: now, -1: never),
--           microseconds until no hit is left in the window}
-- The window is half open: a hit exactly one window old no longer counts.
local limit, window = tonumber(ARGV[1]), tonumber(ARGV[2])
local cost, take = tonumber(ARGV[3]), ARGV[4] == '1'
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local length = redis.call('LLEN', KEYS[1])
local newest = tonumber(redis.call('LINDEX', KEYS[1], -1) or 0)
if now < newest then now = newest end -- a clock set back must not reopen the window

-- The times are in order: search for the first that still counts. Mostly it is the oldest.
local low, high = math.max(0, length - limit), length
if low < high and now - tonumber(redis.call('LINDEX', KEYS[1], low)) < window then high = low end
while low < high do
  local middle = math.floor((low + high) / 2)
  if now - tonumber(redis.call('LINDEX', KEYS[1], middle)) >= window then
    low = middle + 1
  else
    high = middle
  end
end
local used = length - low

local allowed, wait = 1, 0
if cost > limit then
  allowed, wait = 0, -1
elseif used + cost > limit then
  -- The cost fits when the hit that is `limit - cost` places before the newest has left.
  local blocking = tonumber(redis.call('LINDEX', KEYS[1], length - (limit - cost) - 1))
  allowed, wait = 0, blocking + window - now
elseif take then
  local text = string.format('%.0f', now)
  for _ = 1, cost do redis.call('RPUSH', KEYS[1], text) end
  if length + cost > limit then redis.call('LTRIM', KEYS[1], -limit, -1) end
  redis.call('PEXPIRE', KEYS[1], math.ceil(window / 1000))
  used, newest = used + cost, now
end
local reset = 0
if used > 0 then reset = newest + window - now end
return {allowed, math.max(0, limit - used), wait, reset}
