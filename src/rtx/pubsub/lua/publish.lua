-- Append a message to a capped log and publish it, as one step.
-- KEYS[1]  hash that describes the log, such as {executions:1}:meta
-- KEYS[2]  stream that is the log, such as {executions:1}:log; entry ids are `seq-0`
-- KEYS[3]  sorted set of the publishers' keys by seq, such as {executions:1}:keys; only with a key,
--          as a node of a cluster that hands a slot over refuses calls some of whose keys are missing
-- ARGV[1]  channel
-- ARGV[2]  message: a JSON object with at least one field, without `seq` and `epoch`
-- ARGV[3]  epoch to use where one begins
-- ARGV[4]  entries to keep, and up to a 64th more
-- ARGV[5]  milliseconds to keep an entry, and up to a 16th more
-- ARGV[6]  PUBLISH, or in a cluster SPUBLISH
-- ARGV[7]  the publisher's key; empty for none
-- ARGV[8]  replicas that the server must have
-- reply    {seq, epoch, 0}; {seq, epoch, 1} of the first message with this key, which is not
--          published again; the error `TOOFEW replicas` where there are fewer, and nothing was done
--
-- Fields of the hash: `epoch`, and `seq` of the newest message; `life`, the replication id of the
-- server that wrote it; `forks`, earlier epochs with the last seq of each; `marks`, times with the
-- seq that was the newest then; `keyed`, when the keys' lifetime was renewed; `at` and `due`, see
-- below.
--
-- A server that takes over a log, or comes back with it, may lack its newest messages and so gives
-- their numbers again. It has another replication id, by which it begins another epoch: positions
-- in the former one are good as far as that got here. INFO tells the id and costs half as much as
-- all the rest. So it is asked five times a second, and whenever `at` differs: where a table of
-- this server's memory is, which is somewhere else in every process.
local FORKS, MARKS, LOOK = 16, 16, 200
local keep, ttl, key, wanted = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[7], tonumber(ARGV[8])
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'seq', 'due', 'at', 'keyed')
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local epoch, seq, at = meta[1], (tonumber(meta[2]) or 0) + 1, tostring(redis)
local begins = not epoch

local function pairs_of(text)
  local list = {}
  for name, number in string.gmatch(text or '', '(%S+) (%d+)') do
    list[#list + 1] = {name, tonumber(number)}
  end
  return list
end

local function text_of(list, most)
  local parts = {}
  for place = math.max(1, #list - most + 1), #list do
    parts[#parts + 1] = list[place][1] .. ' ' .. string.format('%.0f', list[place][2])
  end
  return table.concat(parts, ' ')
end

local life
if wanted > 0 or begins or at ~= meta[4] or now >= (tonumber(meta[3]) or 0) then
  local info = redis.call('INFO', 'replication')
  life = string.match(info, 'master_replid:(%x+)') or ''
  local replicas = tonumber(string.match(info, 'connected_slaves:(%d+)')) or 0
  if replicas < wanted then return redis.error_reply('TOOFEW ' .. replicas) end
end

local keyed = not begins and tonumber(meta[5]) -- else what is left is of a log that is gone
if key ~= '' and keyed then
  local first = tonumber(redis.call('ZSCORE', KEYS[3], key))
  if first then
    -- A write that changes nothing: replicas that have it have the message too.
    redis.call('HSET', KEYS[1], 'seq', meta[2])
    for _, fork in ipairs(pairs_of(redis.call('HGET', KEYS[1], 'forks'))) do
      if first <= fork[2] then return {first, fork[1], 1} end
    end
    return {first, epoch, 1}
  end
end

local expired -- all up to this seq are older than they may be
local lifetime -- of the log, in milliseconds, where it is time to renew it
if not life then
  redis.call('HSET', KEYS[1], 'seq', seq)
else
  local kept = redis.call('HMGET', KEYS[1], 'life', 'forks', 'marks')
  local change = {'HSET', KEYS[1], 'seq', seq, 'at', at, 'due', now + LOOK}
  local function set(field, value) change[#change + 1] = field; change[#change + 1] = value end
  if begins or kept[1] ~= life then
    if not begins then
      local forks = pairs_of(kept[2])
      forks[#forks + 1] = {epoch, seq - 1}
      set('forks', text_of(forks, FORKS))
    end
    epoch = ARGV[3]
    set('epoch', epoch)
    set('life', life)
  end
  local marks = pairs_of(kept[3])
  while marks[1] and now - marks[1][1] >= ttl do
    expired = marks[1][2]
    table.remove(marks, 1)
  end
  local newest = marks[#marks]
  local renews = not newest or now - newest[1] >= ttl / MARKS
  if renews then
    marks[#marks + 1] = {string.format('%.0f', now), seq - 1}
    lifetime = math.ceil(ttl + ttl / MARKS)
  end
  if renews or expired then set('marks', text_of(marks, MARKS + 2)) end
  -- The first write is one that a server out of memory refuses: that leaves no trace.
  redis.call(unpack(change))
  if begins then redis.call('DEL', KEYS[2]) end
end

local message = string.sub(ARGV[2], 1, -2) .. ',"seq":' .. seq .. ',"epoch":"' .. epoch .. '"}'
redis.call('XADD', KEYS[2], seq .. '-0', 'm', message)
if key ~= '' then
  if not keyed then redis.call('DEL', KEYS[3]) end
  redis.call('ZADD', KEYS[3], seq, key)
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', math.max(expired or 0, seq - keep))
  if not keyed or now - keyed >= ttl / MARKS then
    redis.call('HSET', KEYS[1], 'keyed', string.format('%.0f', now))
    redis.call('PEXPIRE', KEYS[3], math.ceil(ttl + ttl / MARKS))
  end
end
if expired then redis.call('XTRIM', KEYS[2], 'MINID', string.format('%.0f-0', expired + 1)) end
if seq % math.max(1, math.min(100, math.floor(keep / 64))) == 0 then
  redis.call('XTRIM', KEYS[2], 'MAXLEN', keep)
end
if lifetime then
  redis.call('PEXPIRE', KEYS[1], lifetime)
  redis.call('PEXPIRE', KEYS[2], lifetime)
end
redis.call(ARGV[6], ARGV[1], message)
return {seq, epoch, 0}
