-- Store a value that is known to be right; fills that are under way are of older ones.
-- KEYS[1]  the value
-- KEYS[2]  its lease
-- KEYS[3]  the newest version of its row that is known
-- ARGV[1]  value
-- ARGV[2]  milliseconds that it lives
-- ARGV[3]  its version, 0 where that is not known
-- ARGV[4]  milliseconds that the version is remembered
-- reply    1 stored | 0 a newer version is known
local version = tonumber(ARGV[3])
if version > 0 and version < tonumber(redis.call('GET', KEYS[3]) or 0) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('DEL', KEYS[2])
if version > 0 then
  redis.call('SET', KEYS[3], ARGV[3], 'PX', ARGV[4])
else
  redis.call('DEL', KEYS[3]) -- what is known is not of this value
end
return 1
