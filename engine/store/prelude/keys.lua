-- Shared by every move: these files stand before the text of each, after its shebang. Here: constants, and the names of keys.
--
-- KEYS[1] is the root of the namespace, `{mrun}:`; every other key is derived from it and shares its hash tag, so a move
-- may touch any of them, also on a cluster. docs/redis-keys.md lists them all.
--
-- The rules that each move keeps:
--   * It checks everything, then writes: nothing after its first write can fail.
--   * It is bounded. What is left over is pushed on `study:<s>:todo` in the same script, and any worker's claim or beat
--     goes on with it; so whoever dies between two parts loses nothing.
--   * Counters that `status` reads are gathered in `tally` and written once, by `finish_move`.

local root = KEYS[1]
local floor, min, max = math.floor, math.min, math.max

-- Studies of which a key was found damaged from outside. They fail when the move has been done, see mend.lua.
local damaged = {}
-- What is lost with these is texts, or what others know, too.
local SPARED = {reasons = true, grown = true, followers = true}

-- The study that a key belongs to, and what it is of it: '' is its hash.
local function owner_of(key)
  if type(key) ~= 'string' or string.sub(key, 1, #root) ~= root then return nil end
  local s, part = string.match(key, '^study:([^:]+):?([^:]*)', #root + 1)
  if s then return s, part end
  return string.match(key, '^queue:[^:]+:([^:]+):%d+$', #root + 1), 'stream'
end

-- A call that the server refused. If it is for a study's key of another type, or for a number that is none, that is deleted, so
-- that the call can be done all the same: one damaged study must not keep a move from all the others.
local function call_again(problem, ...)
  local words, text = {...}, type(problem) == 'table' and problem.err or tostring(problem)
  local name, first, last = words[1], 2, 2
  if name == 'XREADGROUP' then first, last = 8, 8 end
  if name == 'XGROUP' or name == 'XINFO' then first, last = 3, 3 end
  if name == 'BITOP' then first, last = 3, #words end
  local is_mended = false
  for i = first, last do
    local s, part = owner_of(words[i])
    if not s then break end
    if string.find(text, 'WRONGTYPE', 1, true) then
      if name ~= 'BITOP' or redis.call('TYPE', words[i]).ok ~= 'string' then redis.call('UNLINK', words[i]) end
      is_mended = true
    elseif name == 'HINCRBY' and (string.find(text, 'not an integer', 1, true) or string.find(text, 'overflow', 1, true)) then
      redis.call('HDEL', words[i], words[3])
      is_mended = true
    end
    if is_mended and not SPARED[part] then damaged[s] = true end
  end
  if not is_mended then error(problem, 0) end
  return redis.call(...)
end

-- pcall costs a call a tenth of what it takes; to look at each key's type before would cost as much again as the call.
local server_call, pcall = redis.call, pcall
local function call(...)
  local is_done, reply = pcall(server_call, ...)
  if is_done then return reply end
  return call_again(reply, ...)
end

-- Bits of a node are kept in chunks of 2^20 samples; a full chunk is only its count in the node's hash.
local CHUNK = 1048576
-- What one script may do: an item is a child visited, a range put, or a node's keys deleted.
local ITEMS = 200
-- A claim aims at this much work, and is never longer than so many samples.
local BITE_MS, BITE_MOST = 1000, 10000
-- Ready ranges of a node, and of a stream, and retries of a study that are kept one by one. Beyond both of the first two, or
-- the third, they become bits, in chunks of so many samples: a million scattered samples cost what a hundred do.
local NODE_RANGES_MOST, STREAM_RANGES_MOST, LATER_MOST = 16, 1024, 1000
local LOOSE_CHUNK = 8192
-- Retries that wait as bits are due a little later than they must: by an eighth of their delay, and at least this.
local LATE_MS = 250
-- The reasons of so many failed samples are kept for each study.
local REASONS_MOST = 1000
-- Counters of a study that has ended are kept for seven days, in seconds.
local KEEP_S = 604800

local function int(number) return string.format('%d', number) end
-- A whole number that a hash should hold; 0 if it holds none.
local function whole(text)
  local number = tonumber(text or 0)
  return number and number > -2^53 and number < 2^53 and floor(number) or 0
end
local function wall_us() local t = call('TIME'); return t[1] * 1000000 + t[2] end
local function wall_ms() return floor(wall_us() / 1000) end
local function study_key(s) return root .. 'study:' .. s end
local function node_key(s, n) return root .. 'study:' .. s .. ':node:' .. n end
local function step_key(s, i) return root .. 'study:' .. s .. ':step:' .. i end
local function stream_key(queue, s, class) return root .. 'queue:' .. queue .. ':' .. s .. ':' .. class end
local function held_key(w) return root .. 'worker:' .. w .. ':held' end
-- The streams in which a worker is known as a consumer.
local function streams_key(w) return root .. 'worker:' .. w .. ':streams' end

-- The store's time: the server's, and all that it was ever set back by, so that it does not go back behind the last sweep. All
-- that is compared is in it; only what people read is the server's own. Who sees first that the clock was set back keeps by
-- how much, and `swept` says so: nobody can tell how long it was since the last sweep, so the next one takes it as an outage.
local set_back_ms
local function now_us()
  local wall = wall_us()
  if not set_back_ms then
    local known = call('MGET', root .. 'set_back', root .. 'swept')
    set_back_ms = tonumber(known[1]) or 0
    local behind_ms = (tonumber(known[2]) or 0) - set_back_ms - floor(wall / 1000)
    if behind_ms > 0 then
      set_back_ms = set_back_ms + behind_ms
      call('SET', root .. 'set_back', int(set_back_ms))
      call('SET', root .. 'swept', 'set back')
    end
  end
  return wall + set_back_ms * 1000
end
local function now_ms() return floor(now_us() / 1000) end

-- What msgpack text holds, or nil: what was damaged from outside must not raise here, or every worker would stumble over it.
local function unpacked(raw)
  if not raw then return nil end
  local is_ok, value = pcall(cmsgpack.unpack, raw)
  return is_ok and type(value) == 'table' and value or nil
end
