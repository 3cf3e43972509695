-- Read a log and its position, as one step.
-- KEYS[1]  hash with `epoch`, `seq` and `forks` of the log; see publish.lua
-- KEYS[2]  stream that is the log
-- ARGV[1]  read what is after this seq; -1 for the latest
-- ARGV[2]  messages at most
-- ARGV[3]  epoch of that seq; empty for whichever the log has
-- reply    {epoch or nil, seq of the newest message or 0, seq of the oldest kept or 0,
--           seq of the last message read or 0, {message, ...}, seq after which was read, reason}
-- The reason is empty, `epoch changed` where nothing is known of the position's epoch, or `rewound`
-- where that lost the position: it ended, or the log ends, before it.
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'seq', 'forks')
local after, count, theirs = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
if not meta[1] then -- what is left is of an epoch that is over
  return {false, 0, 0, 0, {}, 0, theirs == '' and '' or 'epoch changed'}
end
local epoch, newest, reason = meta[1], tonumber(meta[2] or 0), ''
if after >= 0 then
  local last = newest
  if theirs ~= '' and theirs ~= epoch then
    last = nil
    for name, seq in string.gmatch(meta[3] or '', '(%S+) (%d+)') do
      if name == theirs then last = tonumber(seq) end
    end
  end
  if not last then
    after, reason = 0, 'epoch changed'
  elseif after > last then
    after, reason = last, 'rewound'
  end
end
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
return {epoch, newest, oldest, read, messages, math.max(after, 0), reason}
