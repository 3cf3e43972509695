-- The exact algorithm: the times of all hits that may still count, in one string, oldest first.
--
--   whole     head, times        up to 512 bytes: read in one piece; a hit is added at its end
--   in parts  times, tail        longer: only its end is read, and a hit is added there
--
--   times  4 bytes each: microseconds modulo 2^32; in a key that has met a window of 4,290 seconds
--          or more, 8 bytes each, and not modulo
--   head   4 bytes: milliseconds, modulo 2^32, at which the key expires; 3 bytes: the newest time
--          divided by 2^32; 1 byte: 4 or 8, the bytes of a time
--   tail   3 bytes: times at the front that do not count any more; 3 bytes: all times; and a head
--
-- A key lives for up to 0.9 s more than the window, so that not every hit must set its TTL; whenever
-- that is set, times that do not count any more are left out. So no time is as much as 2^32
-- microseconds older than the newest, and modulo tells them apart. Numbers are big-endian.
--
-- Looks whether a hit fits. Returns the hits left, microseconds until it fits (0: now, -1: never, -2:
-- the key holds something else), microseconds until no hit counts, and the time of the hit. If it
-- fits and `take` is set, also what to write, the TTL in milliseconds (nil: leave it), and the byte to
-- write at (nil: in place of all).
local function sliding_log(key, raw, limit, window, cost, clock, take)
  local SPAN, WHOLE = 4294967296, 512
  local length, now = #raw, clock
  local size = window < 4290000000 and 4 or 8
  local had, first, total, start, expiry = size, 0, 0, 8, 0
  local age, low, entry, modulo = 0, 0, '>I4', SPAN
  if length > 0 then
    local high
    if length > WHOLE then
      if length < 516 then return 0, -2 end
      first, total, expiry, high, had = struct.unpack('>I3I3I4I3B', raw, length - 13)
      start, low = 0, length - 13
    elseif length > 11 then
      expiry, high, had = struct.unpack('>I4I3B', raw)
      total, low = (length - 8) / had, length + 1
    end
    if had == 8 then
      entry, modulo, size, high = '>I8', 2 ^ 53, 8, 0
    elseif had ~= 4 or total == 0 then
      return 0, -2
    end
    low = struct.unpack(entry, raw, low - had)
    age = now - (high * SPAN + low)
    if age < 0 then age, now = 0, now - age end -- a clock set back must not reopen the window
  end

  local absent = start == 0 and total * had + 14 - length or 0 -- bytes of the log before `raw`
  local chunk, begin = '', 0
  local function age_of(place)
    local at = start + place * had - absent
    if at >= 0 then return age + (low - struct.unpack(entry, raw, at + 1)) % modulo end
    at = (place - begin) * had
    if at < 0 or at >= #chunk then
      chunk, begin, at = redis.call('GETRANGE', key, place * had, (place + 64) * had - 1), place, 0
    end
    return age + (low - struct.unpack(entry, chunk, at + 1)) % modulo
  end

  -- The first that counts is mostly the oldest, or one soon after it: leap ahead, then halve.
  local live = first
  if age >= window then
    live = total
  elseif live < total and age_of(live) >= window then
    local leap = 1
    while live + leap < total and age_of(live + leap) >= window do
      live, leap = live + leap, leap * 2
    end
    local past = math.min(total, live + leap)
    live = live + 1
    while live < past do
      local middle = math.floor((live + past) / 2)
      if age_of(middle) >= window then live = middle + 1 else past = middle end
    end
  end

  local used = total - live
  local count, reset = used + cost, used > 0 and window - age or 0
  if count > limit then
    local left = math.max(0, limit - used)
    if cost > limit then return left, -1, reset, now end
    -- It fits when the hit that is `limit - cost` places before the newest has left.
    return left, window - age_of(total - limit + cost - 1), reset, now
  end
  if not take then return limit - used, 0, reset, now end

  local time = size == 4 and struct.pack('>I4', now % SPAN) or struct.pack('>I8', now)
  local times, high = string.rep(time, cost), math.floor(now / SPAN)
  local ttl, is_whole = math.ceil(window / 1000) + 1, count * size + 8 <= WHOLE
  local due = math.floor(clock / 1000) + ttl
  if start == 0 and had == size and live * 4 <= count and not is_whole then
    -- In parts, and little of it has left.
    local renewed
    if (expiry - due) % SPAN > 900 then renewed, expiry = ttl + 900, (due + 900) % SPAN end
    local tail = struct.pack('>I3I3I4I3B', live, total + cost, expiry, high, size)
    return limit - count, 0, window, now, times .. tail, renewed, total * size
  end

  -- Written anew, without what does not count any more.
  local body = ''
  if used > 0 then
    body = redis.call('GETRANGE', key, start + live * had, start + total * had - 1)
  end
  if had < size then
    local wide = {}
    for place = 1, used do
      local behind = (low - struct.unpack('>I4', body, place * 4 - 3)) % SPAN
      wide[place] = struct.pack('>I8', now - age - behind)
    end
    body = table.concat(wide)
  end
  local head = struct.pack('>I4I3B', (due + 900) % SPAN, high, size)
  if is_whole then
    body = head .. body .. times
  else
    body = body .. times .. struct.pack('>I3I3', 0, count) .. head
  end
  return limit - count, 0, window, now, body, ttl + 900
end
