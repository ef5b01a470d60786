-- Bitmaps of a node, three kinds: `done` settled, `bad` blocking, `out` put (kept only where several parents must agree).

local function bits_key(s, n, kind, c) return study_key(s) .. ':' .. kind .. ':' .. n .. ':' .. c end

local function fill_bits(key, a, b, bit)
  while a < b and a % 8 ~= 0 do call('SETBIT', key, a, bit); a = a + 1 end
  local bytes = floor((b - a) / 8)
  if bytes > 0 then
    call('SETRANGE', key, a / 8, string.rep(bit == 1 and '\255' or '\0', bytes))
    a = a + bytes * 8
  end
  while a < b do call('SETBIT', key, a, bit); a = a + 1 end
end

local function set_bits(key, a, b) fill_bits(key, a, b, 1) end

-- A chunk that was full, and then grew, has a count and no bitmap: its first bits are set.
local function spell_out(key, node, have)
  if node.has_grown and have > 0 and call('EXISTS', key) == 0 then set_bits(key, 0, have) end
end

-- Mark [lo, hi), none of which is marked yet.
local function mark(s, node, kind, lo, hi)
  while lo < hi do
    local c = floor(lo / CHUNK)
    local base = c * CHUNK
    local stop = min(hi, base + CHUNK)
    local have = add_known(node.key, kind .. ':' .. c, stop - lo)
    local key = bits_key(s, node.n, kind, c)
    -- Bits that nobody counted: the node's hash was deleted from outside.
    if have == stop - lo and call('EXISTS', key) == 1 then damaged[s] = true end
    if have == min(CHUNK, node.size - base) then
      call('UNLINK', key)
    else
      spell_out(key, node, have - (stop - lo))
      set_bits(key, lo - base, stop - base)
    end
    lo = stop
  end
end

-- The first position in [lo, hi) whose bit is `want`, or nil.
local function find(s, node, kind, lo, hi, want)
  while lo < hi do
    local c = floor(lo / CHUNK)
    local base = c * CHUNK
    local stop = min(hi, base + CHUNK)
    local have = known_number(node.key, kind .. ':' .. c)
    if have == 0 then
      if want == 0 then return lo end
    elseif have == min(CHUNK, node.size - base) then
      if want == 1 then return lo end
    else
      local key = bits_key(s, node.n, kind, c)
      spell_out(key, node, have)
      local length = call('STRLEN', key) * 8
      -- Some are counted: somebody deleted the bits. What is said of them here is wrong, but the study goes no further.
      if length == 0 then damaged[s] = true end
      local at = call('BITPOS', key, want, lo - base, stop - 1 - base, 'BIT')
      if at >= 0 then return base + max(at, lo - base) end
      if want == 0 then
        -- BITPOS looks only at bytes that are there; what follows them is zero.
        if length < stop - base then return base + max(lo - base, length) end
      end
    end
    lo = stop
  end
  return nil
end
