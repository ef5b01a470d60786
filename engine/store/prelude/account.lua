-- Accounting, and what it releases.
-- `actions` is what a move still has to do. It works off ITEMS of it; the rest goes to the study's todo.

local actions = {}
-- Nodes whose last sample this script has settled.
local ended_nodes = 0
local function plan_action(s, ...)
  worked_on[s] = true
  actions[#actions + 1] = {s = s, a = {...}}
end

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
  worked_on[s] = true
  if states[s] == nil then states[s] = call('HGET', study_key(s), 'state') end
  return states[s]
end

local function end_study(s)
  local study = call('HMGET', study_key(s), 'state', 'outcome', 'queued_at_ms')
  if study[1] ~= 'running' and study[1] ~= 'stopping' then return end
  local state = (study[2] == 'failed' or study[2] == 'cancelled') and study[2] or 'finished'
  states[s] = state
  call('HSET', study_key(s), 'state', state, 'ended_at_ms', int(max(wall_ms(), tonumber(study[3]) or 0)))
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

local LOST = 'the server lost a part of its plan or of its tasks; `mrun restart` with its workspace goes on with it'
-- The plan of a running study is gone or can't be read: it can't come to its end, and says why.
function fail_planless(s)
  stop_study(s, 'failed', LOST, 0)
  plan_action(s, 'idle')
end

local function end_if_idle(s)
  local study = call('HMGET', study_key(s), 'state', 'running')
  local running = whole(study[2]) + ((tally[study_key(s)] or {}).running or 0)
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
  ended_nodes = ended_nodes + 1
  local is_doomed = blocking == node.size and 1 or 0
  local step = step_of(s, node.step)
  if is_doomed == 1 then call('HSET', step_key(s, node.step), 'is_doomed', 1) end
  if node.all_chunks > 0 then plan_action(s, 'complete', node.n, 0, is_doomed) end
  if call('HINCRBY', step_key(s, node.step), 'nodes_done', 1) == step.nodes then
    local doomed = tonumber(call('HGET', step_key(s, node.step), 'is_doomed') or 0)
    for _, child in ipairs(step.after) do plan_action(s, 'barrier', child, 0, doomed) end
  end
  local left = call('HINCRBY', study_key(s), 'nodes_left', -1)
  if left == 0 then end_study(s) end
  -- Nobody counted this node: the number was deleted from outside.
  if left < 0 then damaged[s] = true end
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
    if not parent then damaged[s] = true; return hi, 'wait' end
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
  return whole(facts[1]) >= node.waits and not facts[2]
end
