-- Give a session its full life again, where that is at least a twentieth more than it has.
-- KEYS[1]  the session
-- ARGV[1]  its value as the reader has it: what was revoked or changed meanwhile is left alone
-- ARGV[2]  milliseconds of a full life
-- ARGV[3]  epoch milliseconds after which it must not live
-- reply    the value as it is now, or nil
local value = redis.call('GET', KEYS[1])
if value ~= ARGV[1] then return value end
-- Only the number changes, so that other programs' fields stay as they are.
local before, ends, after = string.match(value, '^(.*"expires_at"%s*:%s*)(%d+)(%s*[,}].*)$')
if not before then return value end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local full = tonumber(ARGV[2])
local later = math.min(now + full, tonumber(ARGV[3]))
if later - tonumber(ends) < full / 20 then return value end
value = before .. string.format('%.0f', later) .. after
redis.call('SET', KEYS[1], value, 'PX', string.format('%.0f', later - now))
return value
