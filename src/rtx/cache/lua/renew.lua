-- Keep a lease for as long again.
-- KEYS[1]  the lease
-- ARGV[1]  its token
-- ARGV[2]  milliseconds
-- reply    1 kept | 0 it has been lost
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
