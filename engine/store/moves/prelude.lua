-- Shared by every move: it stands before the text of each, after its shebang.
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
local call = redis.call
local floor, min, max = math.floor, math.min, math.max

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
local function now_us() local t = call('TIME'); return t[1] * 1000000 + t[2] end
local function now_ms() return floor(now_us() / 1000) end
local function study_key(s) return root .. 'study:' .. s end
local function node_key(s, n) return root .. 'study:' .. s .. ':node:' .. n end
local function step_key(s, i) return root .. 'study:' .. s .. ':step:' .. i end
local function stream_key(queue, s, class) return root .. 'queue:' .. queue .. ':' .. s .. ':' .. class end
local function held_key(w) return root .. 'worker:' .. w .. ':held' end
-- The streams in which a worker is known as a consumer.
local function streams_key(w) return root .. 'worker:' .. w .. ':streams' end

-- What msgpack text holds, or nil: what was damaged from outside must not raise here, or every worker would stumble over it.
local function unpacked(raw)
  if not raw then return nil end
  local is_ok, value = pcall(cmsgpack.unpack, raw)
  return is_ok and type(value) == 'table' and value or nil
end

-- ---------------------------------------------------------------------------------------------------- counters

local tally = {}

local function count(key, field, by)
  local fields = tally[key]
  if not fields then fields = {}; tally[key] = fields end
  fields[field] = (fields[field] or 0) + by
end

-- ready, running and retrying say where samples are, and are kept for the step and for the queue; so is dead, which
-- someone should look at.
local function count_samples(s, node, state, by)
  count(node.step_key, state, by)
  if state == 'ready' or state == 'running' or state == 'retrying' or state == 'dead' then
    count(node.queue_key, state, by)
  end
  if state == 'running' then count(study_key(s), 'running', by) end
end

-- Numbers in hashes that are read and counted up again and again in one move; `count` writes what was added.
local known = {}
local function known_number(key, field)
  local fields = known[key]
  if not fields then fields = {}; known[key] = fields end
  if not fields[field] then fields[field] = tonumber(call('HGET', key, field) or 0) end
  return fields[field]
end
local function add_known(key, field, by)
  local number = known_number(key, field) + by
  known[key][field] = number
  count(key, field, by)
  return number
end

local paces = {}

local function write_tally()
  for key, pace in pairs(paces) do call('HSET', key, 'pace_ms', string.format('%.3f', pace)) end
  paces, known = {}, {}
  for key, fields in pairs(tally) do
    for field, by in pairs(fields) do
      if by ~= 0 then call('HINCRBY', key, field, int(by)) end
    end
  end
  tally = {}
end

-- ------------------------------------------------------------------------------------------------ the stored plan

local plans = {}

local function plan_field(s, field)
  return unpacked(call('HGET', study_key(s) .. ':plan', field))
end

local function step_of(s, i)
  local key = s .. ':s' .. i
  if not plans[key] then
    local f = plan_field(s, 'step:' .. i)
    plans[key] = f and {size = f[1], class = f[2], max_losses = f[3], chunk = f[4], first_node = f[5], nodes = f[6],
                        after = f[7], barriers = f[8], delay_ms = f[9], dead_flags = f[10] or 0,
                        max_fails = f[11] or -1, has_past = f[12] == 1, has_grown = f[13] == 1}
  end
  return plans[key]
end

-- A node with the facts of its step, but for the terms that are its own. `waits` counts what must be complete before any of
-- its samples is put: parent nodes, and parent steps as wholes (barriers).
local function node_of(s, n)
  local key = s .. ':n' .. n
  if not plans[key] then
    local f = plan_field(s, 'node:' .. n)
    local step = f and step_of(s, f[1])
    if not step then return nil end
    plans[key] = {n = n, step = f[1], queue = f[2], waits = f[3] + step.barriers, each_parents = f[4], each_chunks = f[5],
                  all_chunks = f[6], size = step.size, class = f[7] or step.class, max_losses = f[8] or step.max_losses,
                  chunk = f[9] or step.chunk, delay_ms = f[10] or step.delay_ms, dead_flags = f[11] or step.dead_flags,
                  key = node_key(s, n), step_key = step_key(s, f[1]), queue_key = study_key(s) .. ':queue:' .. f[2],
                  max_fails = f[12] or step.max_fails, has_grown = step.has_grown,
                  is_gated = f[3] + step.barriers > 0 or #f[4] > 1}
  end
  return plans[key]
end

-- -------------------------------------------------------------------------------------------------------- bitmaps
-- Three kinds for each node: `done` settled, `bad` blocking, `out` put (kept only where several parents must agree).

local function bits_key(s, n, kind, c) return study_key(s) .. ':' .. kind .. ':' .. n .. ':' .. c end

local function set_bits(key, a, b)
  while a < b and a % 8 ~= 0 do call('SETBIT', key, a, 1); a = a + 1 end
  local bytes = floor((b - a) / 8)
  if bytes > 0 then
    call('SETRANGE', key, a / 8, string.rep('\255', bytes))
    a = a + bytes * 8
  end
  while a < b do call('SETBIT', key, a, 1); a = a + 1 end
end

local function clear_bits(key, a, b)
  while a < b and a % 8 ~= 0 do call('SETBIT', key, a, 0); a = a + 1 end
  local bytes = floor((b - a) / 8)
  if bytes > 0 then
    call('SETRANGE', key, a / 8, string.rep('\0', bytes))
    a = a + bytes * 8
  end
  while a < b do call('SETBIT', key, a, 0); a = a + 1 end
end

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
      local at = call('BITPOS', key, want, lo - base, stop - 1 - base, 'BIT')
      if at >= 0 then return base + max(at, lo - base) end
      if want == 0 then
        -- BITPOS looks only at bytes that are there; what follows them is zero.
        local length = call('STRLEN', key) * 8
        if length < stop - base then return base + max(lo - base, length) end
      end
    end
    lo = stop
  end
  return nil
end

-- ------------------------------------------------------------------------------------------------------------ put

local function ring(queue)
  local bell = root .. 'bell:' .. queue
  if call('LLEN', bell) == 0 then call('RPUSH', bell, 1) end
end

-- Ranges of a node that nobody has claimed are found by their two ends, so that a new one joins those it touches.
local function forget_open(s, n, task)
  local open = study_key(s) .. ':open:' .. n
  local tag = task.attempt .. ':' .. task.losses .. ':' .. task.resume .. ':'
  call('HDEL', open, tag .. '<' .. int(task.lo), tag .. '>' .. int(task.hi))
end

-- Add an entry to a node's stream, and let workers hear of it. Returns its id.
local function add_entry(s, node, stream, text)
  local is_new = call('EXISTS', stream) == 0
  local id = call('XADD', stream, '*', 't', text)
  if is_new then call('XGROUP', 'CREATE', stream, 'workers', '0') end
  local member = s .. ':' .. node.class
  local queue = root .. 'queue:' .. node.queue
  if not call('ZSCORE', queue, member) then
    local priority = tonumber(call('HGET', study_key(s), 'priority') or 0)
    call('ZADD', queue, int(-priority * 4294967296 + call('INCR', root .. 'turn')), member)
  end
  ring(node.queue)
  return id
end

-- Loose samples: those of a chunk of a node, in one attempt, that are ready, as bits. `study:<s>:loose` counts them; as long
-- as there are any, one entry `*<name>` of the stream stands for them all.
local function loose_name(node, task, c)
  return node.n .. ':' .. int(c) .. ':' .. task.attempt .. ':' .. task.losses .. ':' .. task.resume
end

local function parse_loose(name)
  local n, c, attempt, losses, resume = string.match(name, '^(%d+):(%d+):(%d+):(%d+):(%d+)$')
  if not n then return nil end
  return {node = tonumber(n), base = tonumber(c) * LOOSE_CHUNK, attempt = tonumber(attempt), losses = tonumber(losses),
          resume = tonumber(resume), loose = name}
end

-- Call `on_chunk` with the name of each chunk that a range is in, and with the bits [a, b) that it has there.
local function each_chunk(node, task, on_chunk)
  local lo = task.lo
  while lo < task.hi do
    local c = floor(lo / LOOSE_CHUNK)
    local base = c * LOOSE_CHUNK
    local stop = min(task.hi, base + LOOSE_CHUNK)
    on_chunk(loose_name(node, task, c), lo - base, stop - base)
    lo = stop
  end
end

local function count_loose(s, node, stream, name, by)
  if call('HINCRBY', study_key(s) .. ':loose', name, by) == by then add_entry(s, node, stream, '*' .. name) end
end

local function put_loose(s, node, stream, task)
  each_chunk(node, task, function(name, a, b)
    set_bits(study_key(s) .. ':loose:' .. name, a, b)
    count_loose(s, node, stream, name, b - a)
  end)
end

-- Make [task.lo, task.hi) claimable. The caller has counted it.
local function put(s, node, task)
  local stream = stream_key(node.queue, s, node.class)
  local open = study_key(s) .. ':open:' .. node.n
  local tag = task.attempt .. ':' .. task.losses .. ':' .. task.resume .. ':'
  local lo, hi = task.lo, task.hi
  local id, from = string.match(call('HGET', open, tag .. '>' .. int(lo)) or '', '^(%d+%-%d+) (%d+)$')
  if id then
    call('XDEL', stream, id)
    call('HDEL', open, tag .. '>' .. int(lo))
    lo = tonumber(from)
  end
  local next_id, upto = string.match(call('HGET', open, tag .. '<' .. int(hi)) or '', '^(%d+%-%d+) (%d+)$')
  if next_id then
    call('XDEL', stream, next_id)
    call('HDEL', open, tag .. '<' .. int(hi), tag .. '>' .. upto)
    hi = tonumber(upto)
  end
  if not id and not next_id and call('XLEN', stream) > STREAM_RANGES_MOST and call('HLEN', open) > 2 * NODE_RANGES_MOST then
    return put_loose(s, node, stream, task)
  end
  id = add_entry(s, node, stream,
    node.n .. ' ' .. int(lo) .. ' ' .. int(hi) .. ' ' .. task.attempt .. ' ' .. task.losses .. ' ' .. task.resume)
  call('HSET', open, tag .. '<' .. int(lo), id .. ' ' .. int(hi), tag .. '>' .. int(hi), id .. ' ' .. int(lo))
end

-- ------------------------------------------------------------------------------------- accounting and release
-- `actions` is what a move still has to do. It works off ITEMS of it; the rest goes to the study's todo.

local actions = {}
local function plan_action(s, ...) actions[#actions + 1] = {s = s, a = {...}} end

-- Children of [lo, hi) are to hear that it is settled; with what adjoins it, if that was the last thing planned.
local function tell_children(s, node, lo, hi)
  if node.each_chunks == 0 or lo >= hi then return end
  local last = actions[#actions]
  local a = last and last.s == s and last.a
  if a and a[1] == 'settled' and a[2] == node.n and a[3] == 0 and a[5] == lo then a[5] = hi; return end
  plan_action(s, 'settled', node.n, 0, lo, hi)
end

local states = {}
local function state_of(s)
  if states[s] == nil then states[s] = call('HGET', study_key(s), 'state') end
  return states[s]
end

local function end_study(s)
  local study = call('HMGET', study_key(s), 'state', 'outcome')
  if study[1] ~= 'running' and study[1] ~= 'stopping' then return end
  local state = study[2] or 'finished'
  states[s] = state
  call('HSET', study_key(s), 'state', state, 'ended_at_ms', int(now_ms()))
  call('XADD', root .. 'events', 'MAXLEN', '~', 1000, '*', 'study', s, 'state', state)
  plan_action(s, 'wake')
  plan_action(s, 'clean', 'ended', 0)
end

local function is_stopping(s) return state_of(s) == 'stopping' end

-- Nothing more of the study is claimed; it ends when its last running sample has.
local function stop_study(s, outcome, why, is_kill)
  if state_of(s) ~= 'running' then return end
  states[s] = 'stopping'
  call('HSET', study_key(s), 'state', 'stopping', 'outcome', outcome, 'why', why, 'kill', is_kill)
  plan_action(s, 'drop', 0)
end

-- The plan of a running study is gone or can't be read: it can't come to its end, and says why.
local function fail_planless(s)
  stop_study(s, 'failed', 'the server lost a part of its plan or of its tasks', 0)
  plan_action(s, 'idle')
end

local function end_if_idle(s)
  local study = call('HMGET', study_key(s), 'state', 'running')
  local running = tonumber(study[2] or 0) + ((tally[study_key(s)] or {}).running or 0)
  if study[1] == 'stopping' and running <= 0 then end_study(s) end
end

-- More samples of a node failed than its step allows: the study stops.
local function keep_max_fails(s, node, by)
  local most = node.max_fails
  if type(most) == 'string' then most = floor(node.size * tonumber(most) / 100) end
  if most >= 0 and call('HINCRBY', node.key, 'fails', by) > most then
    stop_study(s, 'failed', 'more than ' .. most .. ' samples of node ' .. node.n .. ' failed (max_fails)', 0)
  end
end

-- Settle [lo, hi) of a node: mark, count, and note what that completes. `state` is the samples' last; `is_past` tells that
-- an earlier run brought them there.
local function account(s, node, lo, hi, state, is_blocking, is_past)
  -- First: if this is the study's last sample, the study ends below, and is to end as failed.
  if not is_past and (state == 'failed' or state == 'dead') then keep_max_fails(s, node, hi - lo) end
  mark(s, node, 'done', lo, hi)
  if is_blocking then mark(s, node, 'bad', lo, hi) end
  count_samples(s, node, state, hi - lo)
  local key = node.key
  local blocking = is_blocking and add_known(key, 'blocking', hi - lo) or known_number(key, 'blocking')
  if add_known(key, 'settled', hi - lo) < node.size then return end
  local is_doomed = blocking == node.size and 1 or 0
  local step = step_of(s, node.step)
  if is_doomed == 1 then call('HSET', step_key(s, node.step), 'is_doomed', 1) end
  if node.all_chunks > 0 then plan_action(s, 'complete', node.n, 0, is_doomed) end
  if call('HINCRBY', step_key(s, node.step), 'nodes_done', 1) == step.nodes then
    local doomed = tonumber(call('HGET', step_key(s, node.step), 'is_doomed') or 0)
    for _, child in ipairs(step.after) do plan_action(s, 'barrier', child, 0, doomed) end
  end
  if call('HINCRBY', study_key(s), 'nodes_left', -1) == 0 then end_study(s) end
end

-- What an earlier run of the study brought to its end: finished; failed; failed and blocking; and what it did not, and this
-- one does not run either, which counts as cancelled. Staged in one hash,
-- `study:<s>:past`, field <n>:<c>:<kind>, as the number of bits, a blank, and the bitmap (none when all bits are set).
local PAST = {past = 'finished', pastf = 'failed', pastb = 'failed', pastc = 'cancelled'}

local function load_past(s, node, c)
  if call('HSETNX', node.key, 'seen:' .. c, 1) == 0 then return end
  for kind in pairs(PAST) do
    local field = node.n .. ':' .. c .. ':' .. kind
    local have, bitmap = string.match(call('HGET', study_key(s) .. ':past', field) or '', '^(%d+) (.*)$')
    if have then
      call('HSET', node.key, kind .. ':' .. c, have)
      if #bitmap > 0 then call('SET', bits_key(s, node.n, kind, c), bitmap) end
      call('HDEL', study_key(s) .. ':past', field)
    end
  end
end

-- Where the stretch ends that begins at lo and is alike, and which kind of past it is, if any.
local function find_past(s, node, lo, hi)
  local c = floor(lo / CHUNK)
  hi = min(hi, (c + 1) * CHUNK)
  load_past(s, node, c)
  for _, kind in ipairs({'past', 'pastf', 'pastb', 'pastc'}) do
    local at = find(s, node, kind, lo, hi, 1)
    if at == lo then return find(s, node, kind, lo, hi, 0) or hi, kind end
    hi = at or hi
  end
  return hi, nil
end

-- Is a sample-by-sample parent of [lo, hi) unsettled or blocking? Returns the end of the stretch that begins at lo and is
-- alike, and what it is: 'wait', 'skip', 'put', or a kind of past.
local function judge(s, node, lo, hi)
  for _, p in ipairs(node.each_parents) do
    local parent = node_of(s, p)
    local undone = find(s, parent, 'done', lo, hi, 0)
    if undone == lo then return find(s, parent, 'done', lo, hi, 1) or hi, 'wait' end
    hi = undone or hi
  end
  for _, p in ipairs(node.each_parents) do
    local parent = node_of(s, p)
    local bad = find(s, parent, 'bad', lo, hi, 1)
    if bad == lo then return find(s, parent, 'bad', lo, hi, 0) or hi, 'skip' end
    hi = bad or hi
  end
  local kind
  if step_of(s, node.step).has_past then hi, kind = find_past(s, node, lo, hi) end
  return hi, kind or 'put'
end

local function skip(s, node, lo, hi)
  account(s, node, lo, hi, 'skipped', true)
  if node.each_chunks > 0 then plan_action(s, 'settled', node.n, 0, lo, hi) end
end

-- Put, or skip, the samples of [lo, hi) whose parents are all settled, and that have not been put. Returns where it
-- stopped and what is left of `items`.
local function advance(s, node, lo, hi, items)
  while lo < hi and items > 0 do
    local stop, verdict = hi, nil
    if node.is_gated then
      local first = find(s, node, 'out', lo, hi, 0)
      if not first then return hi, items end
      lo, stop = first, find(s, node, 'out', first, hi, 1) or hi
    end
    stop, verdict = judge(s, node, lo, stop)
    if verdict ~= 'wait' and node.is_gated then mark(s, node, 'out', lo, stop) end
    if verdict == 'skip' then
      skip(s, node, lo, stop)
    elseif verdict == 'put' then
      count_samples(s, node, 'ready', stop - lo)
      put(s, node, {lo = lo, hi = stop, attempt = 0, losses = 0, resume = 0})
    elseif PAST[verdict] then
      account(s, node, lo, stop, PAST[verdict], verdict == 'pastb' or verdict == 'pastc', true)
      if node.each_chunks > 0 then plan_action(s, 'settled', node.n, 0, lo, stop) end
    end
    lo, items = stop, items - 1
  end
  return lo, items
end

-- One of the things that this node waits for is complete.
local function meet(s, node, is_doomed)
  if not node then return fail_planless(s) end
  if is_doomed == 1 then call('HSET', node.key, 'is_doomed', 1) end
  if call('HINCRBY', node.key, 'met', 1) < node.waits then return end
  local doomed = call('HGET', node.key, 'is_doomed')
  plan_action(s, doomed and 'skip' or 'open', node.n, 0)
end

-- May samples of this node be put at all? Never those of a node that is being skipped as a whole.
local function is_met(s, node)
  if node.waits == 0 then return true end
  local facts = call('HMGET', node.key, 'met', 'is_doomed')
  return tonumber(facts[1] or 0) >= node.waits and not facts[2]
end

local work = {}
local read_claim

-- Samples [lo, hi) of node n are settled: look at the children that go sample by sample.
function work.settled(s, items, n, c, lo, hi)
  local node = node_of(s, n)
  while c < node.each_chunks do
    local children = plan_field(s, 'each:' .. n .. ':' .. c) or {}
    for i, child in ipairs(children) do
      local kid = node_of(s, child)
      local from = lo
      if kid and is_met(s, kid) then from, items = advance(s, kid, lo, hi, items) else from = hi end
      items = items - 1
      if from < hi then plan_action(s, 'advance', child, from, hi) end
      if items <= 0 then
        -- What follows in this chunk goes one by one: a chunk is short.
        for j = i + 1, #children do plan_action(s, 'advance', children[j], lo, hi) end
        if c + 1 < node.each_chunks then plan_action(s, 'settled', n, c + 1, lo, hi) end
        return 0
      end
    end
    c = c + 1
  end
  return items
end

-- The same of several stretches: of `lengths`, from `lo` on, the first is settled, the second not, and so on. As one piece of
-- work: where every other sample is to run again, one for each would cost more than the samples do.
function work.settled_by_turns(s, items, n, lo, lengths)
  for i = 1, #lengths, 2 do
    if items <= 0 then
      plan_action(s, 'settled_by_turns', n, lo, {unpack(lengths, i)})
      return 0
    end
    items = work.settled(s, items, n, 0, lo, lo + lengths[i])
    lo = lo + lengths[i] + (lengths[i + 1] or 0)
  end
  return items
end

function work.advance(s, items, n, lo, hi)
  local node = node_of(s, n)
  if not is_met(s, node) then return items - 1 end
  local from, left = advance(s, node, lo, hi, items)
  if from < hi then plan_action(s, 'advance', n, from, hi) end
  return left - 1
end

-- Every sample of node n is settled: its other children have one thing less to wait for.
function work.complete(s, items, n, c, is_doomed)
  local node = node_of(s, n)
  for _, child in ipairs(plan_field(s, 'all:' .. n .. ':' .. c) or {}) do
    meet(s, node_of(s, child), is_doomed)
    items = items - 1
  end
  if c + 1 < node.all_chunks then plan_action(s, 'complete', n, c + 1, is_doomed) end
  return items
end

-- Every node of a parent step is settled: so for every node of step i, from its k-th on.
function work.barrier(s, items, i, k, is_doomed)
  local step = step_of(s, i)
  while k < step.nodes and items > 0 do
    meet(s, node_of(s, step.first_node + k), is_doomed)
    k, items = k + 1, items - 1
  end
  if k < step.nodes then plan_action(s, 'barrier', i, k, is_doomed) end
  return items
end

-- How many samples a node had when it was opened, or skipped as a whole: what is added later is put by `added`. `upto` is
-- what the first piece of this work was to reach, and must be kept to: a later size is not its business.
local function opened_size(s, node, upto)
  if upto then return upto end
  call('HSET', node.key, 'opened', int(node.size))
  return node.size
end

function work.open(s, items, n, lo, upto)
  local node = node_of(s, n)
  upto = opened_size(s, node, upto)
  if #node.each_parents == 0 and not step_of(s, node.step).has_past then
    count_samples(s, node, 'ready', upto - lo)
    put(s, node, {lo = lo, hi = upto, attempt = 0, losses = 0, resume = 0})
    return items - 1
  end
  local left
  lo, left = advance(s, node, lo, upto, items)
  if lo < upto then plan_action(s, 'open', n, lo, upto) end
  return left - 1
end

-- A whole node is skipped, one chunk of bits at a time.
function work.skip(s, items, n, lo, upto)
  local node = node_of(s, n)
  upto = opened_size(s, node, upto)
  local hi = min(upto, lo + CHUNK)
  if node.is_gated and #node.each_parents > 0 then mark(s, node, 'out', lo, hi) end
  skip(s, node, lo, hi)
  if hi < upto then plan_action(s, 'skip', n, hi, upto) end
  return items - 1
end

-- Samples were added: those of nodes that were opened before follow, from the k-th node of step i on. Nodes that go sample
-- by sample with a parent hear of theirs when the parent's are settled.
function work.added(s, items, i, k)
  local step = step_of(s, i)
  if not step then return items end
  while k < step.nodes and items > 0 do
    local node = node_of(s, step.first_node + k)
    local facts = call('HMGET', node.key, 'opened', 'is_doomed')
    local from = tonumber(facts[1] or node.size)
    if from < node.size and (facts[2] or #node.each_parents == 0) then
      call('HSET', node.key, 'opened', int(node.size))
      plan_action(s, facts[2] and 'skip' or 'open', node.n, from, node.size)
      items = items - 1
    end
    k, items = k + 1, items - 0.25
  end
  if k < step.nodes then plan_action(s, 'added', i, k) else plan_action(s, 'added', i + 1, 0) end
  return items - 0.25
end

-- The study begins: every node that waits for nothing.
function work.roots(s, items, i, k)
  local step = step_of(s, i)
  if not step then return items end
  while k < step.nodes and items > 0 do
    local node = node_of(s, step.first_node + k)
    if node.waits == 0 and #node.each_parents == 0 then items = work.open(s, items, node.n, 0) end
    k, items = k + 1, items - 0.25
  end
  if k < step.nodes then plan_action(s, 'roots', i, k) else plan_action(s, 'roots', i + 1, 0) end
  return items - 0.25
end

-- A stopped study's streams, with all that nobody has claimed.
function work.drop(s, items, i)
  local parts = plan_field(s, 'streams:' .. i)
  if not parts then end_if_idle(s); return items - 1 end
  for _, pair in ipairs(parts) do
    call('UNLINK', stream_key(pair[1], s, pair[2]))
    call('ZREM', root .. 'queue:' .. pair[1], s .. ':' .. pair[2])
    items = items - 1
  end
  plan_action(s, 'drop', i + 1)
  return items
end

-- A study's streams take their place among the others again: its priority has changed, or it is held no more.
function work.rescore(s, items, i)
  local parts = plan_field(s, 'streams:' .. i)
  if not parts then return items - 1 end
  local priority = tonumber(call('HGET', study_key(s), 'priority') or 0)
  for _, pair in ipairs(parts) do
    local queue, member = root .. 'queue:' .. pair[1], s .. ':' .. pair[2]
    if call('ZSCORE', queue, member) then
      call('ZADD', queue, 'XX', int(-priority * 4294967296 + call('INCR', root .. 'turn')), member)
      ring(pair[1])
    end
    items = items - 1
  end
  plan_action(s, 'rescore', i + 1)
  return items
end

-- Workers that hold a claim of the study, or listen only to its queues, are asked to drain (exit code 105). Who they may be is
-- noted at once: the study may be over before the last of them is looked at, and ranks move with every beat.
function work.stop_workers(s, items)
  local ours, i = {}, 0
  local parts = plan_field(s, 'streams:0')
  while parts do
    for _, pair in ipairs(parts) do ours[pair[1]] = 1 end
    i = i + 1
    parts = plan_field(s, 'streams:' .. i)
  end
  local names = call('ZRANGE', root .. 'workers', 0, -1)
  for from = 1, #names, 20 do
    plan_action(s, 'drain_workers', {unpack(names, from, min(#names, from + 19))}, ours)
  end
  return items - 1
end

function work.drain_workers(s, items, names, ours)
  for _, w in ipairs(names) do
    local queues = call('HGET', root .. 'worker:' .. w, 'queues')
    local is_ours = queues ~= false
    for q in string.gmatch(queues or '', '[^,]+') do is_ours = is_ours and ours[q] ~= nil end
    for _, field in ipairs(call('HKEYS', held_key(w))) do
      local r = string.sub(field, 1, 1) ~= '=' and read_claim(w, field)
      if r and r.s == s then is_ours = true end
    end
    if is_ours and call('ZSCORE', root .. 'workers', w) then call('HSET', root .. 'worker:' .. w, 'request', 'drain') end
    items = items - 5
  end
  return items
end

-- The keys of a study that has ended (`why` ended: its counters stay a while) or was purged (`why` purged: nothing does).
function work.clean(s, items, why, n)
  -- Without its plan (lost, or cleaned before) it is not known which nodes there were.
  local shape = plan_field(s, 'shape') or {0, tonumber(call('HGET', study_key(s), 'step_count') or 0)}
  while n < shape[1] and items > 0 do
    local node = node_of(s, n)
    local keys = {node_key(s, n), study_key(s) .. ':open:' .. n}
    for c = 0, node and floor((node.size - 1) / CHUNK) or -1 do
      for _, kind in ipairs({'done', 'bad', 'out', 'past', 'pastf', 'pastb', 'pastc'}) do
        keys[#keys + 1] = bits_key(s, n, kind, c)
      end
    end
    for from = 1, #keys, 500 do call('UNLINK', unpack(keys, from, min(#keys, from + 499))) end
    n, items = n + 1, items - 1 - #keys / 10
  end
  if n < shape[1] then plan_action(s, 'clean', why, n); return items end
  for i = 0, shape[2] - 1 do
    if why == 'purged' then call('UNLINK', step_key(s, i)) else call('EXPIRE', step_key(s, i), KEEP_S) end
  end
  plan_action(s, 'clean_streams', why, 0)
  return items - 1
end

function work.clean_streams(s, items, why, i)
  local parts = plan_field(s, 'streams:' .. i)
  if parts then
    for _, pair in ipairs(parts) do
      call('UNLINK', stream_key(pair[1], s, pair[2]), study_key(s) .. ':queue:' .. pair[1])
      call('ZREM', root .. 'queue:' .. pair[1], s .. ':' .. pair[2])
      items = items - 1
    end
    plan_action(s, 'clean_streams', why, i + 1)
    return items
  end
  plan_action(s, 'clean_bits')
  call('UNLINK', study_key(s) .. ':plan', study_key(s) .. ':past')
  call('ZREM', root .. 'later', s)
  if why == 'purged' then
    call('UNLINK', study_key(s) .. ':reasons')
  else
    call('EXPIRE', study_key(s), KEEP_S)
    call('EXPIRE', study_key(s) .. ':reasons', KEEP_S)
  end
  return items - 1
end

-- Loose samples, and retries that wait, of a study that takes no more.
function work.clean_bits(s, items)
  local loose, later, keys = study_key(s) .. ':loose', study_key(s) .. ':later', {}
  for _, name in ipairs(call('HRANDFIELD', loose, ITEMS)) do
    keys[#keys + 1] = loose .. ':' .. name
    call('HDEL', loose, name)
  end
  for _, member in ipairs(call('ZRANGE', later, 0, ITEMS - 1)) do keys[#keys + 1] = study_key(s) .. ':late:' .. member end
  call('ZREMRANGEBYRANK', later, 0, ITEMS - 1)
  if #keys == 0 then return items - 1 end
  call('UNLINK', unpack(keys))
  plan_action(s, 'clean_bits')
  return items - #keys / 10
end

-- A study that is stopping releases nothing more, but still cleans up after itself.
local releases = {settled = true, settled_by_turns = true, advance = true, complete = true, barrier = true, open = true,
  skip = true, roots = true, added = true}

-- Claims and beats go on with what earlier moves left over: `finish_move` takes it piece by piece once they say so.
local is_resuming = false

local function take_todo()
  if not is_resuming then return false end
  local s = call('ZRANGE', root .. 'todo', 0, 0)[1]
  if not s then return false end
  local key = study_key(s) .. ':todo'
  local a = unpacked(call('LPOP', key))
  if call('EXISTS', key) == 0 then call('ZREM', root .. 'todo', s) end
  if not a then return false end
  actions[#actions + 1] = {s = s, a = a}
  return true
end

-- May this piece be done? What releases samples is void once the study has stopped; its plan may be lost.
local function is_due(s, a)
  if not work[a[1]] then return false end
  if not releases[a[1]] then return true end
  if state_of(s) ~= 'running' then return false end
  if a[1] == 'roots' or a[1] == 'added' or (a[1] == 'barrier' and step_of(s, a[2])) or (a[1] ~= 'barrier' and node_of(s, a[2])) then
    return true
  end
  fail_planless(s)
  return false
end

-- Work off `actions`, then write the counters. Every move that changes anything ends with this.
local drop_ended
local function finish_move()
  drop_ended()
  local items, i = ITEMS, 1
  while items > 0 and (actions[i] or take_todo()) do
    local s, a = actions[i].s, actions[i].a
    if string.sub(a[1], 1, 5) == 'clean' then write_tally() end
    if is_due(s, a) then
      items = work[a[1]](s, items, a[2], a[3], a[4], a[5])
    end
    i = i + 1
  end
  while actions[i] do
    call('RPUSH', study_key(actions[i].s) .. ':todo', cmsgpack.pack(actions[i].a))
    call('ZADD', root .. 'todo', 'NX', int(now_ms()), actions[i].s)
    i = i + 1
  end
  actions = {}
  write_tally()
end


-- ---------------------------------------------------------------------------------------------------------- retries

-- How many samples of a node that were lost are ready: claims of the others are short meanwhile.
local function count_lost(s, node, task, by)
  if task.losses > 0 then count(node.key, 'lost', by) end
end

-- A retry that waits as a bit: its member in `later` is `*<when> <name>`, and `study:<s>:late:<member>` holds the bits.
local function put_late(s, node, task, delay_ms)
  local width = max(LATE_MS, floor(delay_ms / 8))
  local due_ms = (floor((now_ms() + delay_ms) / width) + 1) * width
  each_chunk(node, task, function(name, a, b)
    local member = '*' .. int(due_ms) .. ' ' .. name
    set_bits(study_key(s) .. ':late:' .. member, a, b)
    call('ZADD', study_key(s) .. ':later', int(due_ms), member)
  end)
  return due_ms
end

local function put_later(s, node, task, delay_ms)
  local later, due_ms = study_key(s) .. ':later', now_ms() + delay_ms
  if call('ZCARD', later) >= LATER_MOST then
    due_ms = put_late(s, node, task, delay_ms)
  else
    call('ZADD', later, int(due_ms), node.n .. ' ' .. int(task.lo) .. ' ' .. int(task.hi) .. ' ' .. task.attempt .. ' '
      .. task.losses .. ' ' .. task.resume)
  end
  call('ZADD', root .. 'later', 'LT', int(due_ms), s)
end

local function parse_task(text)
  local n, lo, hi, attempt, losses, resume = string.match(text or '', '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$')
  if not n then return nil end
  return {node = tonumber(n), lo = tonumber(lo), hi = tonumber(hi), attempt = tonumber(attempt),
          losses = tonumber(losses), resume = tonumber(resume)}
end

local function count_due(s, node, task, samples)
  count_samples(s, node, 'retrying', -samples)
  count_samples(s, node, 'ready', samples)
  count_lost(s, node, task, samples)
end

-- Samples of a member of `later` that stands for bits are ready: its bits join the loose ones of the same name.
local function put_late_bits(s, member)
  local name = string.match(member, '^%*%d+ (.+)$')
  local task = name and parse_loose(name)
  local node = task and node_of(s, task.node)
  local late = study_key(s) .. ':late:' .. member
  local samples = call('BITCOUNT', late)
  if not node or samples == 0 then return false end
  count_due(s, node, task, samples)
  local loose = study_key(s) .. ':loose:' .. name
  if call('EXISTS', loose) == 1 then
    call('BITOP', 'OR', loose, loose, late)
    call('UNLINK', late)
  else
    call('RENAME', late, loose)
  end
  count_loose(s, node, stream_key(node.queue, s, node.class), name, samples)
  return true
end

local function put_due_range(s, member)
  local task = parse_task(member)
  local node = task and node_of(s, task.node)
  if not node then return false end
  count_due(s, node, task, task.hi - task.lo)
  put(s, node, task)
  return true
end

-- Put the retries that are due, a bounded number; returns milliseconds until the next, or -1.
local function put_due()
  local now = now_ms()
  local s = call('ZRANGE', root .. 'later', '-inf', int(now), 'BYSCORE', 'LIMIT', 0, 1)[1]
  if s then
    local later = study_key(s) .. ':later'
    -- What is stopping retries nothing more; its keys go with it.
    if call('HGET', study_key(s), 'state') ~= 'running' then
      call('ZREM', root .. 'later', s)
      return 0
    end
    for _, member in ipairs(call('ZRANGE', later, '-inf', int(now), 'BYSCORE', 'LIMIT', 0, 64)) do
      local is_bits = string.sub(member, 1, 1) == '*'
      if not (is_bits and put_late_bits or put_due_range)(s, member) then fail_planless(s) end
      call('ZREM', later, member)
    end
    local next_one = call('ZRANGE', later, 0, 0, 'WITHSCORES')
    if next_one[2] then call('ZADD', root .. 'later', next_one[2], s) else call('ZREM', root .. 'later', s) end
  end
  local first = call('ZRANGE', root .. 'later', 0, 0, 'WITHSCORES')
  return first[2] and max(0, tonumber(first[2]) - now) or -1
end

-- ----------------------------------------------------------------------------------------------------------- claims
-- worker:<w>:held maps a claim number to a record, and `=<queue> <study> <class> <entry>` to how many claims came from that
-- entry: it stays pending until the last of them has ended. A record that can't be read is none.

local ended, released = {}, {}

function read_claim(w, claim)
  if ended[w] and ended[w][claim] then return nil end
  local f = unpacked(call('HGET', held_key(w), claim))
  if not f or not f[9] then return nil end
  return {s = f[1], queue = f[2], class = f[3], entry = f[4], node = f[5], lo = f[6], hi = f[7], attempt = f[8],
          losses = f[9], resume = f[10]}
end

local function write_claim(w, claim, r)
  call('HSET', held_key(w), claim, cmsgpack.pack({r.s, r.queue, r.class, r.entry, r.node, r.lo, r.hi, r.attempt, r.losses,
    r.resume}))
end

-- Claims that have ended in this move: their records and references are dropped together, by drop_ended.
local function end_claim(w, claim, r)
  local shared = '=' .. r.queue .. ' ' .. r.s .. ' ' .. r.class .. ' ' .. r.entry
  ended[w] = ended[w] or {}
  released[w] = released[w] or {}
  ended[w][claim] = true
  local one = released[w][shared]
  if one then one.n = one.n + 1 else released[w][shared] = {n = 1, r = r} end
end
function drop_ended()
  for w, claims in pairs(ended) do
    local held = held_key(w)
    local fields = {}
    for claim in pairs(claims) do fields[#fields + 1] = claim end
    call('HDEL', held, unpack(fields))
    for shared, one in pairs(released[w]) do
      local r = one.r
      if call('HINCRBY', held, shared, -one.n) <= 0 then
        call('HDEL', held, shared)
        local stream = stream_key(r.queue, r.s, r.class)
        call('XACK', stream, 'workers', r.entry)
        call('XDEL', stream, r.entry)
        if call('XLEN', stream) == 0 then
          call('UNLINK', stream)
          call('SREM', streams_key(w), stream)
          call('ZREM', root .. 'queue:' .. r.queue, r.s .. ':' .. r.class)
        end
      end
    end
  end
  ended, released = {}, {}
end

-- Give [lo, r.hi) of a claim back, and end it if nothing of it is left. What was given back is put again, or dropped when
-- the study takes no more. `resume` is that of what is given back, if it is not the claim's.
local function give_back(w, claim, r, lo, losses, resume)
  local node = node_of(r.s, r.node)
  local state = call('HGET', study_key(r.s), 'state')
  if node and state then count_samples(r.s, node, 'running', lo - r.hi) end
  if state and not node then count(study_key(r.s), 'running', lo - r.hi); fail_planless(r.s) end
  if node and state == 'running' and lo < r.hi then
    if losses > r.losses and r.hi - lo == 1 and node.max_losses > 0 and losses >= node.max_losses then
      local flags = node.dead_flags
      if flags % 4 >= 2 then stop_study(r.s, 'failed', 'sample ' .. int(lo) .. ' of node ' .. node.n .. ' is dead', 0) end
      account(r.s, node, lo, r.hi, 'dead', flags % 2 == 1)
      local key = study_key(r.s) .. ':reasons'
      if call('HLEN', key) < REASONS_MOST then
        call('HSET', key, r.node .. ':' .. int(lo), 'lost ' .. losses .. ' workers')
      end
      if node.each_chunks > 0 then plan_action(r.s, 'settled', node.n, 0, lo, r.hi) end
    else
      count_samples(r.s, node, 'ready', r.hi - lo)
      local task = {lo = lo, hi = r.hi, attempt = r.attempt, losses = losses, resume = resume or r.resume}
      count_lost(r.s, node, task, r.hi - lo)
      put(r.s, node, task)
    end
  end
  if lo <= r.lo then
    end_claim(w, claim, r)
  else
    r.hi = lo
    write_claim(w, claim, r)
  end
  if state == 'stopping' then plan_action(r.s, 'idle') end
end

-- Studies that were queued to come after this one go on: it has ended, or is forgotten.
function work.wake(s, items)
  local key = study_key(s) .. ':followers'
  for _, follower in ipairs(call('SPOP', key, 20)) do
    if call('HGET', study_key(follower), 'after') == s then
      call('HSET', study_key(follower), 'is_held', 0, 'after', '')
      plan_action(follower, 'rescore', 0)
    end
    items = items - 1
  end
  if call('EXISTS', key) == 1 then plan_action(s, 'wake') end
  return items - 1
end

function work.idle(s, items) end_if_idle(s); return items - 1 end

-- Everything that a worker leaves behind. `loss` is 1 if its claims count as lost. At most `most` claims; returns whether it
-- is gone, and how many claims more the caller may give back.
-- `resume` is that of what was not counted as a loss, and may have been started all the same.
local function remove_worker(w, loss, most, resume)
  for _, field in ipairs(call('HKEYS', held_key(w))) do
    if string.sub(field, 1, 1) ~= '=' then
      if most <= 0 then return false, 0 end
      local r = read_claim(w, field)
      if r then give_back(w, field, r, r.lo, r.losses + loss, r.resume == 0 and loss == 0 and resume or nil) end
      most = most - 1
    end
  end
  drop_ended()
  for _, stream in ipairs(call('SPOP', streams_key(w), ITEMS / 2)) do
    -- pcall: the stream may be gone. With an entry pending, its consumer must stay: it would go with it.
    local pending = redis.pcall('XPENDING', stream, 'workers', '-', '+', 1, w)
    if not pending.err and #pending == 0 then call('XGROUP', 'DELCONSUMER', stream, 'workers', w) end
  end
  if call('EXISTS', streams_key(w)) == 1 then return false, most end
  local facts = call('HMGET', root .. 'worker:' .. w, 'queues', 'slots')
  for q in string.gmatch(facts[1] or '', '[^,]+') do
    if call('HINCRBY', root .. 'slots', q, -tonumber(facts[2] or 0)) <= 0 then call('HDEL', root .. 'slots', q) end
  end
  call('UNLINK', root .. 'worker:' .. w, held_key(w))
  call('ZREM', root .. 'workers', w)
  call('ZREM', root .. 'leases', w)
  return true, most
end

-- Forget a study: from here on every move answers `gone` for it; its keys are deleted in pieces.
local function forget_study(s)
  local key = study_key(s)
  states[s] = false
  for i = 0, tonumber(call('HGET', key, 'step_count') or 0) - 1 do call('UNLINK', step_key(s, i)) end
  call('UNLINK', key, key .. ':todo', key .. ':reasons')
  call('ZREM', root .. 'studies', s)
  call('ZREM', root .. 'todo', s)
  -- A commit whose reply was lost may come again: let it find the plan incomplete.
  call('HDEL', key .. ':plan', 'sealed:plan')
  plan_action(s, 'wake')
  plan_action(s, 'clean', 'purged', 0)
end
