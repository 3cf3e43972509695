-- Store what was loaded, if nothing was invalidated since the lease was taken.
-- KEYS[1]  the value
-- KEYS[2]  its lease
-- KEYS[3]  the newest version of its row that is known
-- ARGV[1]  token of the lease
-- ARGV[2]  version that was loaded, 0 where rows have none
-- ARGV[3]  value
-- ARGV[4]  milliseconds that the value lives
-- ARGV[5]  milliseconds that the version is remembered
-- ARGV[6]  `vacant` where writers do not end leases: what one of them has stored meanwhile stays
-- ARGV[7]  optional: a value that cannot be read, which counts as none
-- reply    1 stored | 0 the lease has been lost, or a value is there | -1 a newer version is known
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
if ARGV[6] == 'vacant' then
  local there = redis.pcall('GET', KEYS[1])
  if type(there) == 'string' and there ~= ARGV[7] then
    redis.call('DEL', KEYS[2])
    return 0
  end
end
local version = tonumber(ARGV[2])
if version > 0 and version < tonumber(redis.call('GET', KEYS[3]) or 0) then
  redis.call('DEL', KEYS[2])
  return -1
end
redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
redis.call('DEL', KEYS[2])
if version > 0 then redis.call('SET', KEYS[3], ARGV[2], 'PX', ARGV[5]) end
return 1
