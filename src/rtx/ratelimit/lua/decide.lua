-- Decides hits, alone or several together, by the server's clock. The lines that begin with
-- "-- include" stand for the files of these names: functions that few calls need are not made before.
--
-- KEYS[i]  the key of a limit for an id; all in one cluster slot
-- ARGV[i]  its rule, big-endian: 4 bytes limit; 8 bytes window in microseconds; 4 bytes cost; 1 byte:
--          1 for the counter instead of the log, plus 2 to look without taking, plus 4 to take only
--          together with the next key
-- reply    for each key, big-endian: 8 bytes double, the time of the hit in microseconds since 1970;
--          4 bytes, the hits left, if it was taken. If it was not, these are 2^32 - 1, followed by 8
--          bytes double, microseconds until it fits (0: now, -1: never, -2: the key holds something
--          else); 4 bytes hits left; 8 bytes double, microseconds until no hit counts
--
-- The window is half open: a hit exactly one window old no longer counts. Keys that do not go
-- together are decided one after the other. Of keys that do, none was taken unless all say so.
local time = redis.call('TIME')
local clock = time[1] * 1000000 + time[2]
local reply, together

for i = 1, #KEYS do
  local key, record = KEYS[i], nil
  local limit, window, cost, kind = struct.unpack('>I4I8I4B', ARGV[i])
  local raw = redis.pcall('GETRANGE', key, '-516', '-1')
  local length = #raw
  if kind == 0 and cost == 1 and length > 11 and length < 512 and not together then
    -- A hit on a whole log, which nearly all are: sliding_log in short, for the case that it fits.
    local expiry, high, size, oldest = struct.unpack('>I4I3BI4', raw)
    local low = struct.unpack('>I4', raw, length - 3)
    local age = clock - (high * 4294967296 + low)
    if size == 4 and age >= 0 and window < 4290000000 then
      local total, live = length / 4 - 2, 0
      if age >= window then
        live = total
      elseif age + (low - oldest) % 4294967296 >= window then
        local past = total
        live = 1
        while live < past do
          local middle = math.floor((live + past) / 2)
          if age + (low - struct.unpack('>I4', raw, middle * 4 + 9)) % 4294967296 >= window then
            live = middle + 1
          else
            past = middle
          end
        end
      end
      local left = limit - (total - live) - 1
      if left >= 0 then
        local time = clock % 4294967296
        local top, ttl = (clock - time) / 4294967296, math.ceil(window / 1000) + 1
        local due = math.floor(clock / 1000) + ttl
        -- APPEND is the quicker, and has the server set as much aside again for more of it; a log
        -- that is full, or that has much in it that does not count, is written anew instead.
        local append = left > 0 and live * 4 <= total
        if append and top == high and (expiry - due) % 4294967296 <= 900 then
          redis.call('APPEND', key, struct.pack('>I4', time))
        else
          local head = struct.pack('>I4I3B', (due + 900) % 4294967296, top, 4)
          local body = string.sub(raw, live * 4 + 9)
          redis.call('PSETEX', key, ttl + 900, head .. body .. struct.pack('>I4', time))
        end
        record = struct.pack('>dI4', clock, left)
      end
    end
  end

  if not record then
    -- include sliding_log
    -- include sliding_counter
    if type(raw) == 'table' and string.sub(raw.err, 1, 9) ~= 'WRONGTYPE' then return raw end
    local look = kind % 2 == 0 and sliding_log or sliding_counter
    local take, more = kind % 4 < 2, kind >= 4
    local left, wait, reset, time, value, ttl, at = 0, -2
    if type(raw) == 'string' then
      left, wait, reset, time, value, ttl, at = look(key, raw, limit, window, cost, clock, take)
    end
    if more or together then
      together = together or {fits = true}
      together.fits = together.fits and wait == 0
    end
    local writes = together or {}
    if value then writes[#writes + 1] = {key, value, ttl, at} end
    for j = 1, not more and (not together or together.fits) and #writes or 0 do
      local place, text, life, from = unpack(writes[j], 1, 4)
      if from then
        redis.call('SETRANGE', place, from, text)
        if life then redis.call('PEXPIRE', place, life) end
      else
        redis.call('PSETEX', place, life, text)
      end
    end
    if not more then together = nil end
    if value then
      record = struct.pack('>dI4', time, left)
    else
      record = struct.pack('>dI4dI4d', time or clock, 4294967295, wait, left, reset or 0)
    end
  end
  reply = reply and reply .. record or record
end
return reply
