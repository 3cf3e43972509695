-- Remember a version of a row, unless a newer one is known.
-- KEYS[1]  the newest version that is known
-- ARGV[1]  version
-- ARGV[2]  milliseconds that it is remembered
-- reply    1 remembered | 0 a newer one is known
if tonumber(ARGV[1]) < tonumber(redis.call('GET', KEYS[1]) or 0) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
