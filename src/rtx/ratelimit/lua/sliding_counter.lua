-- The approximate algorithm: the hits of this span, and of the one before, which counts in part.
--
-- 33 bytes: 8 when this span began, 8 its length, 8 the newest hit, all in microseconds; 4 the hits of
-- the span before; 4 those of this span; 1 byte: 1. Numbers are big-endian.
--
-- A hit of the span before may have been at any moment of it, so `x` microseconds into this span
-- `1 - x / window` of them count. Returns as sliding_log does.
local function sliding_counter(key, raw, limit, window, cost, clock, take)
  local now = clock
  local began, span, newest, before, count = now, window, now, 0, 0
  if #raw > 0 then
    if #raw ~= 33 or string.byte(raw, 33) ~= 1 then return 0, -2 end
    began, span, newest, before, count = struct.unpack('>I8I8I8I4I4', raw)
    if now < newest then now = newest end -- a clock set back must not reopen the window
    if now - newest >= span then
      began, before, count = now, 0, 0
    elseif now - began >= span then
      began, before, count = began + span, count, 0
    end
    if span ~= window then
      -- Another window than before: what counts now begins a span of its own.
      count = math.ceil(before * (1 - (now - began) / span) + count)
      began, before = now, 0
    end
  end

  local gone = now - began
  local used = before * (1 - gone / window) + count
  local left = math.max(0, math.floor(limit - used))
  local reset = used > 0 and math.max(0, newest + window - now) or 0
  if cost > limit then return left, -1, reset, now end
  local room = limit - cost
  if used > room then
    local wait, fixed, fading, since = 0, count, before, gone
    if count > room then -- not in this span: in the next one, these are those of the span before
      wait, fixed, fading, since = window - gone, 0, count, 0
    end
    local more = math.max(0, math.ceil(window * (1 - (room - fixed) / fading) - since))
    while fading * (1 - (since + more) / window) + fixed > room do more = more + 1 end -- rounding
    wait = wait + more
    return left, math.max(1, math.min(wait, reset)), reset, now
  end
  if not take then return left, 0, reset, now end
  left = math.max(0, math.floor(limit - used - cost))
  local value = struct.pack('>I8I8I8I4I4B', began, window, now, before, count + cost, 1)
  return left, 0, window, now, value, math.ceil(window / 1000) + 1
end
