-- Store prices, unless one of a later tick is there, and then publish ticks, all in one step.
-- A price that cannot be read gives way.
-- KEYS[i]          the price of a symbol
-- ARGV[1]          milliseconds that they live
-- ARGV[2 * i]      JSON of the price, with `time` in ISO 8601 UTC with milliseconds
-- ARGV[2 * i + 1]  its time in epoch milliseconds
-- ARGV[...]        after those: channel, message, channel, message, ...
-- reply            for each price: 1 stored | 0 a later one is kept | an error
--                  for each message: how many received it | an error
local find, sub, match = string.find, string.sub, string.match
local function is_later(old, new, time)
  -- Written by this script's own callers: both times are at one place and compare as text.
  local at = find(old, '"time":"', 1, true)
  if at and sub(old, at + 31, at + 32) == 'Z"' and sub(old, at + 18, at + 18) == 'T' and sub(new, at, at + 7) == '"time":"' then
    return sub(old, at + 8, at + 30) > sub(new, at + 8, at + 30)
  end
  -- Of other programs: epoch milliseconds, or UTC written otherwise.
  local number = tonumber(match(old, '"time"%s*:%s*(%d+%.?%d*)%s*[,}]'))
  if number then return number > tonumber(time) end
  local day, clock, zone = match(old, '"time"%s*:%s*"(%d%d%d%d%-%d%d%-%d%d).(%d%d:%d%d:%d%d%.?%d?%d?%d?)([^"]*)"')
  if not day or not (match(zone, '^%d*Z?$') or match(zone, '^%d*[+-]00:?00$')) then return false end
  return day .. 'T' .. clock > match(new, '"time":"([^"]*)Z"')
end
local replies = {}
for i, key in ipairs(KEYS) do
  local new = ARGV[2 * i]
  local kept = redis.pcall('GET', key)
  if type(kept) == 'string' and is_later(kept, new, ARGV[2 * i + 1]) then
    replies[i] = 0
  else
    local stored = redis.pcall('SET', key, new, 'PX', ARGV[1])
    replies[i] = stored.err and stored or 1
  end
end
for i = 2 * #KEYS + 2, #ARGV, 2 do
  replies[#replies + 1] = redis.pcall('PUBLISH', ARGV[i], ARGV[i + 1])
end
return replies
