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

local function key_of(m, st, instance, kind, c) return names.bits(m.root, st.id, kind, instance.text, int(c)) end

-- Marks [lo, hi) of one chunk, none of which is marked yet.
local function mark_chunk(m, st, instance, kind, c, lo, hi)
  local key, base = key_of(m, st, instance, kind, c), c * CHUNK
  local field = kind .. ':' .. c
  local before, full = counters.get(instance.hash, field), math.min(CHUNK, instance.size - base)
  local have = before + hi - lo
  -- Bits that nobody counted, or too many: the instance's hash was damaged.
  if have > full or (before == 0 and redis.call('EXISTS', key) == 1) then error('a damaged count of bits', 0) end
  counters.set(instance.hash, field, have)
  if have == full then
    if before > 0 then redis.call('UNLINK', key) end
  else
    spell_out(key, instance, before)
    bits.fill(key, lo - base, hi - base, 1)
  end
end

-- Writes the stretch of a kind that `mark` holds back.
function bits.flush(m, st, instance, kind)
  local lo, hi = instance.lo_of[kind], instance.hi_of[kind]
  if not lo then return end
  instance.lo_of[kind] = false
  while lo < hi do
    local c = math.floor(lo / CHUNK)
    local stop = math.min(hi, (c + 1) * CHUNK)
    mark_chunk(m, st, instance, kind, c, lo, stop)
    lo = stop
  end
end

-- Marks [lo, hi), none of which is marked yet: with the stretch before it, if they touch, when somebody looks, or at the end.
function bits.mark(m, st, instance, kind, lo, hi)
  if instance.lo_of[kind] and instance.hi_of[kind] == lo then
    instance.hi_of[kind] = hi
  else
    bits.flush(m, st, instance, kind)
    instance.lo_of[kind], instance.hi_of[kind] = lo, hi
  end
end

-- The first position in [lo, hi) whose bit is `want`, or nil.
function bits.find(m, st, instance, kind, lo, hi, want)
  bits.flush(m, st, instance, kind)
  while lo < hi do
    local c = math.floor(lo / CHUNK)
    local base = c * CHUNK
    local stop, have = math.min(hi, base + CHUNK), counters.get(instance.hash, kind .. ':' .. c)
    if have == 0 or have >= math.min(CHUNK, instance.size - base) then
      if want == (have == 0 and 0 or 1) then return lo end
    else
      local key = key_of(m, st, instance, kind, c)
      spell_out(key, instance, have)
      local at = redis.call('BITPOS', key, want, lo - base, stop - 1 - base, 'BIT')
      if at >= 0 then return base + math.max(at, lo - base) end
      local length = redis.call('STRLEN', key) * 8
      if length == 0 then error('a missing bitmap', 0) end
      -- BITPOS looks only at bytes that are there; what follows them is zero.
      if want == 0 and length < stop - base then return base + math.max(lo - base, length) end
    end
    lo = stop
  end
end

-- Where the stretch ends that begins at lo and is alike, and whether its bits are set.
function bits.stretch(m, st, instance, kind, lo, hi)
  local at = bits.find(m, st, instance, kind, lo, hi, 1)
  if at == lo then return bits.find(m, st, instance, kind, lo, hi, 0) or hi, true end
  return at or hi, false
end

-- Writes all that was changed in the context of a study, and in those of its instances.
local function write_study(m, st)
  for _, instance in pairs(st.instances) do
    for kind in pairs(instance.lo_of) do bits.flush(m, st, instance, kind) end
  end
  for _, hash in ipairs(m.hashes) do
    if hash.is_changed and hash.study == st.id then counters.write(hash) end
  end
end
