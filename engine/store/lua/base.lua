-- The library's foundations: numbers, calls for keys of the namespace, and what a move knows while it runs.
--
-- KEYS[1] of every move is the root of its namespace, `{mrun}:2:`. Every other key begins with it and shares its hash tag, so
-- a move may touch any of them, also on a cluster. The rules of all moves:
--   * It checks everything, then writes.
--   * It is bounded. What is left over goes on the study's `todo` in the same move, and any worker's claim or beat goes on with
--     it. So nothing is lost if a worker dies between two parts.
--   * What it does for one study is one protected call (`protect`). If that fails, this study ends as failed with the reason,
--     and the move goes on with the others. So keys of a study are read and written plainly: what does not fit raises.
--   * Keys of the namespace belong to no study. Their calls go through `space`: what has the wrong type there is removed.
--   * All that a move knows is in its context `m`. Nothing outside a function is written after the library was loaded, and
--     nothing of `redis`, `math` or `cmsgpack` is used while it loads: Redis 7.0 and Valkey 9.1 refuse that.

local function int(number) return string.format('%d', number) end

-- A whole number that a study's hash holds; 0 where there is none. Raises if it is no such number.
local function whole(text, what)
  if not text then return 0 end
  local number = tonumber(text)
  if not number or number % 1 ~= 0 or number < -1 or number > WHOLE_MOST then error('a damaged number ' .. what, 0) end
  return number
end

-- The same of the namespace, where what does not fit reads as 0.
local function lenient(text)
  local number = text and tonumber(text)
  return number and number >= 0 and number <= WHOLE_MOST and number - number % 1 or 0
end

-- What an error says. pcall gives the server's errors as text, which begins with a word in capitals.
local function text_of(problem) return type(problem) == 'table' and problem.err or tostring(problem) end

local space = {}

-- A call for a key of the namespace. If the key has the wrong type, it is removed, and the call made again.
function space.call(...)
  local reply = redis.pcall(...)
  if type(reply) ~= 'table' or not reply.err then return reply end
  if not string.find(reply.err, 'WRONGTYPE', 1, true) then error(reply, 0) end
  redis.call('UNLINK', (select(2, ...)))
  return redis.call(...)
end

-- Fields of a hash of the namespace, by name; false where there is none.
function space.fields(key, list)
  local reply, found = space.call('HMGET', key, unpack(list)), {}
  for i, name in ipairs(list) do found[name] = reply[i] end
  return found
end

-- A number in a hash of the namespace grows by so much; at 0 or below it goes.
function space.count(key, field, by)
  local number = lenient(space.call('HGET', key, field)) + by
  if number > 0 then space.call('HSET', key, field, int(number)) else space.call('HDEL', key, field) end
end

-- Rings a bell that nobody has heard yet at most once.
function space.ring(m, bell)
  if m.rung[bell] then return end
  m.rung[bell] = true
  if space.call('LLEN', bell) == 0 then redis.call('RPUSH', bell, 1) end
end

-- Pieces of work by name: what a move leaves over, and another one goes on with. The files that know how register them here.
local work = {}
-- The moves by name.
local verbs = {}

-- `by_study` has a table for each study that the move has to do with; `hashes` those whose changes are written at its end. All
-- fields stand here, so that Lua makes room for them at once.
local function new_context(root)
  return {root = root, by_study = {}, hashes = {}, actions = {}, next_action = 1, rung = {}, ended_instances = 0,
    is_resuming = false, has_clock = false, set_back_ms = 0, swept_ms = 0, is_set_back = false, sweeper = false, sweeper_lease_ms = 0,
    sweeps_until_ms = 0, last_claim = 0, last_turn = 0, has_numbers = false, has_claimed = false, wall_us = false,
    wall_ms = false, now_ms = false, ended = false, has_left = false, has_retries = false, is_known = false}
end
