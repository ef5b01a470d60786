-- Bitmaps of an instance: `done` settled, `bad` blocking, `out` put (only where several parents must agree), and what an
-- earlier run brought to its end. Kept in chunks; a full chunk is only its count in the instance's hash.

local bits = {}

function bits.fill(key, a, b, bit)
  while a < b and a % 8 ~= 0 do redis.call('SETBIT', key, a, bit); a = a + 1 end
  local bytes = math.floor((b - a) / 8)
  if bytes > 0 then
    redis.call('SETRANGE', key, a / 8, string.rep(bit == 1 and '\255' or '\0', bytes))
    a = a + bytes * 8
  end
  while a < b do redis.call('SETBIT', key, a, bit); a = a + 1 end
end

-- A chunk that was full, and then grew, has a count and no bitmap: its first bits are set.
local function spell_out(key, instance, have)
  if instance.has_grown and have > 0 and redis.call('EXISTS', key) == 0 then bits.fill(key, 0, have, 1) end
end

-- Calls `on_chunk` for each chunk that [lo, hi) is in, until it returns something.
local function each_chunk(lo, hi, on_chunk)
  while lo < hi do
    local c = math.floor(lo / CHUNK)
    local stop = math.min(hi, (c + 1) * CHUNK)
    local found = on_chunk(c, c * CHUNK, lo, stop)
    if found then return found end
    lo = stop
  end
end

-- Marks [lo, hi), none of which is marked yet.
function bits.mark(m, st, instance, kind, lo, hi)
  each_chunk(lo, hi, function(c, base, from, stop)
    local field, key = kind .. ':' .. c, names.bits(m.root, st.id, kind, instance.number, c)
    local before = counters.get(instance.hash, field)
    local have = before + stop - from
    local full = math.min(CHUNK, instance.size - base)
    -- Bits that nobody counted, or too many: the instance's hash was damaged.
    if have > full or (before == 0 and redis.call('EXISTS', key) == 1) then error('a damaged count of bits', 0) end
    counters.set(instance.hash, field, have)
    if have == full then
      if before > 0 then redis.call('UNLINK', key) end
    else
      spell_out(key, instance, before)
      bits.fill(key, from - base, stop - base, 1)
    end
  end)
end

-- The first position in [lo, hi) whose bit is `want`, or nil.
function bits.find(m, st, instance, kind, lo, hi, want)
  return each_chunk(lo, hi, function(c, base, from, stop)
    local have = counters.get(instance.hash, kind .. ':' .. c)
    if have == 0 then return want == 0 and from or nil end
    if have >= math.min(CHUNK, instance.size - base) then return want == 1 and from or nil end
    local key = names.bits(m.root, st.id, kind, instance.number, c)
    spell_out(key, instance, have)
    local at = redis.call('BITPOS', key, want, from - base, stop - 1 - base, 'BIT')
    if at >= 0 then return base + math.max(at, from - base) end
    local length = redis.call('STRLEN', key) * 8
    if length == 0 then error('a missing bitmap', 0) end
    -- BITPOS looks only at bytes that are there; what follows them is zero.
    if want == 0 and length < stop - base then return base + math.max(from - base, length) end
  end)
end

-- Where the stretch ends that begins at lo and is alike, and whether its bits are set.
function bits.stretch(m, st, instance, kind, lo, hi)
  local at = bits.find(m, st, instance, kind, lo, hi, 1)
  if at == lo then return bits.find(m, st, instance, kind, lo, hi, 0) or hi, true end
  return at or hi, false
end
