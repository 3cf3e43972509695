-- Read a value, or claim the right to fill it, which one holder at a time has.
-- KEYS[1]  the value
-- KEYS[2]  its lease: the holder's token, or `absent` while the value is known not to exist
-- ARGV[1]  token, used for this claim only
-- ARGV[2]  milliseconds after which a holder that has died is replaced
-- ARGV[3]  `get`, or `refresh` to claim although there is a value
-- ARGV[4]  optional: a value that cannot be read, which then counts as none
-- reply    {1, value} | {2} known to be absent | {3, 1 if a key of another kind is there, else 0}
--          the claim is granted | {4} another holds it
local value = redis.pcall('GET', KEYS[1])
local broken = 0
if type(value) == 'table' then
  broken = 1
elseif value and ARGV[3] == 'get' and value ~= ARGV[4] then
  return {1, value}
end
local holder = redis.call('GET', KEYS[2])
if holder == 'absent' then return {2} end
if holder then return {4} end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return {3, broken}
