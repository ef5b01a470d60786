-- A study in a move: its state, how it stops, ends, fails and is forgotten, and the protection of the others against it.

local studies = {}

local LOST = 'the server lost or could not change a part of it; `mrun restart` with its workspace goes on with it: '
local ENDED = {finished = true, failed = true, cancelled = true}

-- What the move knows of a study. Nothing is read yet.
function studies.of(m, s)
  local st = m.by_study[s]
  if not st then
    st = {id = s, hash = counters.open(m, s, names.study(m.root, s)), steps = {}, instances = {}, is_named = {},
      is_gone = false, shape = false, walltimes = false, demands = false, needs = false}
    m.by_study[s] = st
  end
  return st
end

-- running, stopping, or how it ended; nil if the server does not know it.
function studies.state(st)
  local state = not st.is_gone and counters.text(st.hash, 'state')
  return (state == 'running' or state == 'stopping' or ENDED[state]) and state or nil
end

function studies.is_unfinished(st)
  local state = studies.state(st)
  return state == 'running' or state == 'stopping'
end

-- Whether a study has ended that another one looks at: what of it was damaged must not harm the one that looks.
function studies.has_ended(m, s)
  local is_read, is_unfinished = pcall(studies.is_unfinished, studies.of(m, s))
  return not (is_read and is_unfinished)
end

function studies.priority(st) return tonumber(counters.text(st.hash, 'priority') or 0) or 0 end

-- What a move still has to do for a study. It works off ITEMS of it; the rest goes to the study's todo.
function studies.plan(m, st, ...)
  m.actions[#m.actions + 1] = {study = st.id, words = {...}}
end

local function drop_changes(m, s)
  for _, instance in pairs(studies.of(m, s).instances) do instance.lo_of = {} end
  for _, hash in ipairs(m.hashes) do
    if hash.study == s then counters.drop(hash) end
  end
end

-- Puts a study's work on its todo, which is made anew if somebody gave the key another type.
local function push(m, s, ...)
  local key = names.study_todo(m.root, s)
  for _, words in ipairs({...}) do space.call('RPUSH', key, cmsgpack.pack(words)) end
  space.call('ZADD', names.todo(m.root), 'NX', int(clock.now_ms(m)), s)
end

local function tell_end(m, s, state)
  space.call('XADD', names.events(m.root), 'MAXLEN', '~', 1000, '*', 'study', s, 'state', state)
end

-- A part of a move for this study failed, because something of it was damaged from outside. What was written stays, and nobody
-- could tell what is missing. So the study ends as failed; the journal has the account, and `mrun restart` goes on with it.
local function break_off(m, s, problem)
  local key, st = names.study(m.root, s), studies.of(m, s)
  drop_changes(m, s)
  if redis.call('TYPE', key).ok ~= 'hash' then redis.call('UNLINK', key) end
  local known = redis.call('HMGET', key, 'state', 'queued_at_ms', 'steps')
  st.hash.known = {state = ENDED[known[1]] and known[1] or 'failed'}
  if ENDED[known[1]] then return push(m, s, {'clean', 'ended', 0}) end
  -- The plan goes before the hash of a study that has ended. So without either there was none, or it was being forgotten.
  if st.is_gone or (not known[1] and redis.call('EXISTS', names.plan(m.root, s)) == 0) then
    redis.call('UNLINK', key)
    space.call('ZREM', names.studies(m.root), s)
    return push(m, s, {'wake'}, {'clean', 'purged', 0})
  end
  local queued_at = known[2] or space.call('ZSCORE', names.studies(m.root), s) or 0
  redis.call('HSET', key, 'state', 'failed', 'outcome', 'failed', 'ended_at_ms', int(clock.wall_ms(m)),
    'why', LOST .. text_of(problem),
    'queued_at_ms', queued_at, 'steps', known[3] or '[]')
  tell_end(m, s, 'failed')
  push(m, s, {'wake'}, {'clean', 'ended', 0})
end

-- The work that a move does for one study: if it fails, only this study ends. Returns what the work does, or nil.
local function protect(m, s, task, ...)
  local is_done, answer = pcall(task, m, ...)
  if is_done then return answer end
  local is_ended, problem = pcall(break_off, m, s, answer)
  if not is_ended then error(problem, 0) end
end

function studies.finish(m, st)
  if not studies.is_unfinished(st) then return end
  local outcome = counters.text(st.hash, 'outcome')
  local state = (outcome == 'failed' or outcome == 'cancelled') and outcome or 'finished'
  counters.set(st.hash, 'state', state)
  local ended_at_ms = math.max(clock.wall_ms(m), tonumber(counters.text(st.hash, 'queued_at_ms')) or 0)
  counters.set(st.hash, 'ended_at_ms', int(ended_at_ms))
  tell_end(m, st.id, state)
  studies.plan(m, st, 'wake')
  studies.plan(m, st, 'clean', 'ended', 0)
end

-- Nothing more of the study is claimed; it ends when its last running sample has.
function studies.stop(m, st, outcome, why, is_kill)
  if studies.state(st) ~= 'running' then return end
  counters.set(st.hash, 'state', 'stopping')
  counters.set(st.hash, 'outcome', outcome)
  counters.set(st.hash, 'why', why)
  counters.set(st.hash, 'kill', is_kill and 1 or 0)
  studies.plan(m, st, 'drop', 0)
end

function studies.finish_if_idle(m, st)
  if studies.state(st) == 'stopping' and counters.get(st.hash, 'running') <= 0 then studies.finish(m, st) end
end

function studies.note_reason(m, st, instance, sample, text)
  local key = names.reasons(m.root, st.id)
  if redis.call('HLEN', key) < REASONS_MOST then redis.call('HSET', key, instance.number .. ':' .. int(sample), text) end
end

-- How much of a study there may be, by its plan; or, where somebody damaged that, by what its hash says of its steps: how many
-- instances, the most samples of one, the queues and the number of classes.
local function rough_shape(m, st)
  local key = names.study(m.root, st.id)
  local facts = redis.call('TYPE', key).ok == 'hash' and redis.call('HMGET', key, 'steps', 'queues', 'class_count') or {}
  local is_list, steps = pcall(cjson.decode, facts[1] or '[]')
  local instances, samples = 0, 0
  for _, step in ipairs(is_list and type(steps) == 'table' and steps or {}) do
    if type(step) == 'table' then
      instances, samples = instances + lenient(step[2]), math.max(samples, lenient(step[3]))
    end
  end
  return {instances, samples, facts[2] or '', math.min(math.max(lenient(facts[3]), 1), 100)}
end

-- From here on every move answers `gone` for the study; its keys are deleted in pieces.
function studies.forget(m, st)
  local rough = rough_shape(m, st)
  drop_changes(m, st.id)
  st.is_gone, st.hash.is_touched = true, true
  redis.call('UNLINK', names.study(m.root, st.id), names.study_todo(m.root, st.id), names.reasons(m.root, st.id))
  space.call('ZREM', names.studies(m.root), st.id)
  space.call('ZREM', names.todo(m.root), st.id)
  -- A commit whose reply was lost may come again: let it find the plan incomplete.
  if redis.call('TYPE', names.plan(m.root, st.id)).ok == 'hash' then
    redis.call('HDEL', names.plan(m.root, st.id), 'sealed:plan')
  end
  studies.plan(m, st, 'wake')
  studies.plan(m, st, 'clean', 'purged', 0, rough)
end

-- Studies that were queued to come after this one go on: it has ended, or is forgotten.
local function let_go(m, follower, s)
  local st = studies.of(m, follower)
  if counters.text(st.hash, 'after') ~= s then return end
  counters.set(st.hash, 'is_held', 0)
  counters.set(st.hash, 'after', '')
  studies.plan(m, st, 'rescore', 0)
end

function work.wake(m, st, items)
  local key = names.followers(m.root, st.id)
  -- Of another type, somebody put it there: the sweeps let go what waits for the study.
  if redis.call('TYPE', key).ok ~= 'set' then redis.call('UNLINK', key) end
  for _, follower in ipairs(redis.call('SPOP', key, 20)) do
    protect(m, follower, let_go, follower, st.id)
    items = items - 1
  end
  if redis.call('EXISTS', key) == 1 then studies.plan(m, st, 'wake') end
  return items - 1
end

function work.idle(m, st, items) studies.finish_if_idle(m, st); return items - 1 end

-- A stopped study's streams, with all that nobody has claimed.
function work.drop(m, st, items, part)
  local streams = plan.streams(m, st, part)
  if not streams then studies.finish_if_idle(m, st); return items - 1 end
  for _, pair in ipairs(streams) do
    redis.call('UNLINK', names.stream(m.root, pair[1], st.id, pair[2]))
    space.call('ZREM', names.queue(m.root, pair[1]), st.id .. ':' .. pair[2])
    items = items - 1
  end
  studies.plan(m, st, 'drop', part + 1)
  return items
end

-- A study's streams take their place among the others again: its priority has changed, or it is held no more.
function work.rescore(m, st, items, part)
  local streams = plan.streams(m, st, part)
  for _, pair in ipairs(streams or {}) do
    local queue, member = names.queue(m.root, pair[1]), st.id .. ':' .. pair[2]
    if space.call('ZSCORE', queue, member) then
      redis.call('ZADD', queue, 'XX', clock.next_turn(m, studies.priority(st)), member)
      space.ring(m, names.bell(m.root, pair[1]))
    end
    items = items - 1
  end
  if streams then studies.plan(m, st, 'rescore', part + 1) end
  return items - 1
end
