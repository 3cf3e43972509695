-- An account's rules and their states, of one moment.
-- KEYS[1]  hash of the rules
-- KEYS[2]  hash of the states
-- reply    {{id, rule, ...}, {id, state, ...}}
return {redis.call('HGETALL', KEYS[1]), redis.call('HGETALL', KEYS[2])}
