-- Read a value with all that is known of it, as of one moment.
-- KEYS[1]  the value
-- KEYS[2]  the newest version of its row that is known
-- reply    {value or nil, milliseconds that it still lives (below 0: for ever, or gone),
--          version or nil}
return {redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1]), redis.call('GET', KEYS[2])}
