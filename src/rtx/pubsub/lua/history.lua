-- Read a log and its position, as one step.
-- KEYS[1]  hash with `epoch` and `seq` of the log
-- KEYS[2]  stream that is the log
-- ARGV[1]  read what is after this seq; -1 for the latest
-- ARGV[2]  messages at most
-- reply    {epoch or nil, seq of the newest message or 0, seq of the oldest kept or 0,
--           seq of the last message read or 0, {message, ...}}
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'seq')
if not meta[1] then return {false, 0, 0, 0, {}} end -- what is left is of an epoch that is over
local after = tonumber(ARGV[1])
local count = tonumber(ARGV[2])
local oldest = 0
local first = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)
if first[1] then
  oldest = tonumber(string.match(first[1][1], '^(%d+)'))
end
local read = 0
local messages = {}
if count > 0 and after >= 0 then
  local entries = redis.call('XRANGE', KEYS[2], string.format('%.0f', after + 1) .. '-0', '+', 'COUNT', count)
  for i, entry in ipairs(entries) do messages[i] = entry[2][2] end
  if #entries > 0 then read = tonumber(string.match(entries[#entries][1], '^(%d+)')) end
elseif count > 0 then
  local entries = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', count)
  for i, entry in ipairs(entries) do messages[#entries - i + 1] = entry[2][2] end
end
return {meta[1], tonumber(meta[2] or 0), oldest, read, messages}
