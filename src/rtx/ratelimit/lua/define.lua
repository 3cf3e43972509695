-- Changes the definitions of limits, and tells every process that they have changed.
--
-- KEYS[1]  the hash of the definitions
-- ARGV[1]  field
-- ARGV[2]  value; empty to drop the field
-- reply    the new version: the server's time in microseconds
if ARGV[2] == '' then
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
end
local clock = redis.call('TIME')
local version = clock[1] .. '.' .. clock[2]
redis.call('HSET', KEYS[1], 'version', version)
return version
