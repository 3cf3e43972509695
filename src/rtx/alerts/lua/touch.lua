-- Tell every engine that an account's rules have changed.
-- KEYS[1]  hash alert_rules: `version`, and the version of each account that has or had rules
-- ARGV[1]  account id
-- reply    the new version: the server's time in microseconds
local clock = redis.call('TIME')
local version = string.format('%d%06d', clock[1], clock[2])
redis.call('HSET', KEYS[1], ARGV[1], version, 'version', version)
return version
