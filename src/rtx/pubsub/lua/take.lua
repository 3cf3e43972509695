-- Hand messages of a log to one worker of a group: those that others left undone, then new ones.
-- KEYS[1]  stream that is the log
-- KEYS[2]  stream of the group's dead letters, such as {executions:1}:dead:backoffice
-- ARGV[1]  group; where there is none yet it begins with the oldest message
-- ARGV[2]  the worker
-- ARGV[3]  messages at most
-- ARGV[4]  milliseconds after which what a worker has not done goes to another; 0 looks for none
-- ARGV[5]  deliveries after which a message that is not done is a dead letter
-- ARGV[6]  dead letters to keep
-- ARGV[7]  milliseconds to keep them after the last one
-- reply    {messages trimmed before they were done, dead letters, {{id, message, deliveries}, ...}}
local group, worker, count = ARGV[1], ARGV[2], tonumber(ARGV[3])
local idle, most = tonumber(ARGV[4]), tonumber(ARGV[5])
local log, dead = KEYS[1], KEYS[2]
if redis.call('EXISTS', log) == 0 then return {0, 0, {}} end

local function number(id) return tonumber(string.match(id, '^(%d+)')) end

local last
for _, fields in ipairs(redis.call('XINFO', 'GROUPS', log)) do
  local info = {}
  for place = 1, #fields, 2 do info[fields[place]] = fields[place + 1] end
  if info['name'] == group then last = number(info['last-delivered-id']) end
end
if not last then
  local first = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
  local start = first and string.format('%.0f-0', number(first[1]) - 1) or '$'
  redis.call('XGROUP', 'CREATE', log, group, start)
end

local missed, died, taken = 0, 0, {}
if idle > 0 then
  for _, left in ipairs(redis.call('XPENDING', log, group, 'IDLE', idle, '-', '+', count)) do
    local id, deliveries = left[1], left[4]
    local entry = redis.call('XRANGE', log, id, id)[1]
    if not entry then
      missed = missed + 1
      redis.call('XACK', log, group, id)
    elseif deliveries >= most then
      died = died + 1
      redis.call('XADD', dead, 'MAXLEN', ARGV[6], '*', 'm', entry[2][2], 'deliveries', deliveries)
      redis.call('PEXPIRE', dead, ARGV[7])
      redis.call('XACK', log, group, id)
    else
      redis.call('XCLAIM', log, group, worker, idle, id)
      taken[#taken + 1] = {id, entry[2][2], deliveries + 1}
    end
  end
end
if #taken < count then
  local reply = redis.call(
    'XREADGROUP', 'GROUP', group, worker, 'COUNT', count - #taken, 'STREAMS', log, '>')
  local entries = reply and reply[1] and reply[1][2] or {}
  if last and entries[1] then missed = missed + number(entries[1][1]) - last - 1 end
  for _, entry in ipairs(entries) do taken[#taken + 1] = {entry[1], entry[2][2], 1} end
end
return {missed, died, taken}
