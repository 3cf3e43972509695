-- Append a message to a capped log and publish it, as one step.
-- KEYS[1]  hash with `epoch` and `seq` of the log, such as {executions:1}:meta
-- KEYS[2]  stream that is the log, such as {executions:1}:log; entry ids are `seq-0`
-- ARGV[1]  channel
-- ARGV[2]  message: a JSON object with at least one field, without `seq` and `epoch`
-- ARGV[3]  epoch to use where the log has none yet
-- ARGV[4]  entries to keep
-- ARGV[5]  milliseconds to keep the log after its last message
-- ARGV[6]  PUBLISH, or in a cluster SPUBLISH
-- reply    {seq, epoch}
-- First a write that a server out of memory refuses, so that a refused message leaves no trace.
local seq = redis.call('HINCRBY', KEYS[1], 'seq', 1)
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch then
  epoch = ARGV[3]
  redis.call('DEL', KEYS[2])
  redis.call('HSET', KEYS[1], 'epoch', epoch)
end
local message = string.sub(ARGV[2], 1, -2) .. ',"seq":' .. seq .. ',"epoch":"' .. epoch .. '"}'
redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[4], seq .. '-0', 'm', message)
redis.call('PEXPIRE', KEYS[1], ARGV[5])
redis.call('PEXPIRE', KEYS[2], ARGV[5])
redis.call(ARGV[6], ARGV[1], message)
return {seq, epoch}
