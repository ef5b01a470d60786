-- The store's time, who sweeps, and the numbers of claims and turns: one hash. And the sign that tells a namespace's layout.
--
-- The store's time is the server's, and all that it was ever set back by, so that it does not go back behind the last sweep. All
-- that is compared is in it; only what people read is the server's own. The first move that sees that the clock was set back
-- notes by how much. Nobody can tell how long it was since the last sweep, so the next one takes it as an outage.

local clock = {}

local function wall_us(_) local t = redis.call('TIME'); return t[1] * 1000000 + t[2] end

-- Reads the hash, once in a move, when something of it is asked for first.
local function read_clock(m)
  if m.has_clock then return end
  m.has_clock = true
  local set_back_ms, swept_ms, is_set_back, sweeper, lease_ms, until_ms, claim, turn = unpack(space.call('HMGET',
    names.clock(m.root), 'set_back_ms', 'swept_ms', 'is_set_back', 'sweeper', 'sweeper_lease_ms', 'sweeps_until_ms',
    'last_claim', 'last_turn'))
  m.set_back_ms, m.swept_ms, m.is_set_back = lenient(set_back_ms), lenient(swept_ms), is_set_back == '1'
  m.sweeper, m.sweeper_lease_ms, m.sweeps_until_ms = sweeper, lenient(lease_ms), lenient(until_ms)
  m.last_claim, m.last_turn = lenient(claim), lenient(turn)
end

function clock.set(m, ...) space.call('HSET', names.clock(m.root), ...) end

function clock.wall_ms(m) clock.now_ms(m); return m.wall_ms end

function clock.now_ms(m)
  if m.now_ms then return m.now_ms end
  read_clock(m)
  m.wall_us = wall_us(m)
  m.wall_ms = math.floor(m.wall_us / 1000)
  local behind_ms = m.swept_ms - m.set_back_ms - m.wall_ms
  if behind_ms > 0 then
    m.set_back_ms, m.is_set_back = m.set_back_ms + behind_ms, true
    clock.set(m, 'set_back_ms', int(m.set_back_ms), 'is_set_back', 1)
  end
  m.now_ms = m.wall_ms + m.set_back_ms
  return m.now_ms
end

-- The next claim's number. Numbers follow the clock in microseconds, so that a server that lost its last second does not give
-- one out twice.
function clock.next_claim(m)
  if not m.has_claimed then
    clock.now_ms(m)
    m.last_claim, m.has_claimed = math.max(m.last_claim, m.wall_us + m.set_back_ms * 1000), true
  end
  m.last_claim, m.has_numbers = m.last_claim + 1, true
  return m.last_claim
end

-- The place of a stream among the others of its queue: higher priorities first, then who waits longest.
function clock.next_turn(m, priority)
  read_clock(m)
  m.last_turn, m.has_numbers = m.last_turn + 1, true
  return int(-priority * 4294967296 + m.last_turn)
end

-- Who sweeps, unless its time is over. The worker with the longest lease does: one with a shorter lease looks more often and
-- soon follows a sweeper that died; idle workers with a long one may look only after a short lease has ended.
function clock.sweeper(m) return m.sweeps_until_ms > clock.now_ms(m) and m.sweeper or nil end

function clock.is_to_sweep(m, w, lease_ms)
  local other = clock.sweeper(m)
  return not other or other == w or m.sweeper_lease_ms < lease_ms
end

function clock.sweep(m, w, lease_ms, sweep_ms)
  m.sweeper, m.sweeper_lease_ms, m.sweeps_until_ms = w, lease_ms, clock.now_ms(m) + 2 * sweep_ms
  clock.set(m, 'sweeper', w, 'sweeper_lease_ms', int(lease_ms), 'sweeps_until_ms', int(m.sweeps_until_ms))
end

-- Writes the numbers that were given out.
function clock.flush(m)
  if m.has_numbers then clock.set(m, 'last_claim', int(m.last_claim), 'last_turn', int(m.last_turn)) end
  m.has_numbers = false
end

-- Refuses a namespace of another layout, for moves that write something new. Each layout has a root of its own, and a sign where
-- mrun before layouts had keys of another type: its moves look there first, and fail without changing anything.
function clock.check_layout(m)
  local old_root = string.sub(m.root, 1, #m.root - #int(LAYOUT) - 1)
  local sign = redis.pcall('GET', old_root .. 'studies')
  if sign == 'layout ' .. int(LAYOUT) then return end
  if type(sign) == 'table' and not string.find(sign.err, 'WRONGTYPE', 1, true) then error(sign, 0) end
  if sign then error({err = 'LAYOUT ' .. (type(sign) == 'string' and string.match(sign, '%d+') or '1')}, 0) end
  for _, name in ipairs({'studies', 'workers'}) do redis.call('SET', old_root .. name, 'layout ' .. int(LAYOUT)) end
end
