-- Pieces of work: what one move leaves over, and another goes on with.
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
    if not node then fail_planless(s); return items - 1 end
    local facts = call('HMGET', node.key, 'opened', 'is_doomed')
    local from = facts[1] and whole(facts[1]) or node.size
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
    if not node then fail_planless(s); return items - 1 end
    if node.waits == 0 and #node.each_parents == 0 then items = work.open(s, items, node.n, 0) end
    k, items = k + 1, items - 0.25
  end
  if k < step.nodes then plan_action(s, 'roots', i, k) else plan_action(s, 'roots', i + 1, 0) end
  return items - 0.25
end

-- A stopped study's streams, with all that nobody has claimed.
function work.drop(s, items, i)
  local parts = streams_of(s, i)
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
  local parts = streams_of(s, i)
  if not parts then return items - 1 end
  local priority = whole(call('HGET', study_key(s), 'priority'))
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

-- A worker hears of it with its next beat, or look for work; its own bell wakes one that waits for work.
local function ask_to_drain(w)
  local worker = root .. 'worker:' .. w
  call('HSET', worker, 'request', 'drain')
  if call('LLEN', worker .. ':bell') == 0 then call('RPUSH', worker .. ':bell', 1) end
end

-- Workers that hold a claim of the study, or listen only to its queues, are asked to drain (exit code 105). Who they may be is
-- noted at once: the study may be over before the last of them is looked at, and ranks move with every beat.
function work.stop_workers(s, items)
  local ours, i = {}, 0
  local parts = streams_of(s, 0)
  while parts do
    for _, pair in ipairs(parts) do ours[pair[1]] = 1 end
    i = i + 1
    parts = streams_of(s, i)
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
    if is_ours and call('ZSCORE', root .. 'workers', w) then ask_to_drain(w) end
    items = items - 5
  end
  return items
end

-- The keys of a study that has ended (`why` ended: its counters stay a while) or was purged (`why` purged: nothing does).
-- The last three are what shape_of said of it before its hash went.
function work.clean(s, items, why, n, shape)
  local nodes, steps, samples = unpack(shape or {shape_of(s)})
  while n < nodes and items > 0 do
    local node = node_of(s, n)
    local keys = {node_key(s, n), study_key(s) .. ':open:' .. n}
    for c = 0, floor(((node and node.size or samples) - 1) / CHUNK) do
      for _, kind in ipairs({'done', 'bad', 'out', 'past', 'pastf', 'pastb', 'pastc'}) do
        keys[#keys + 1] = bits_key(s, n, kind, c)
      end
    end
    for from = 1, #keys, 500 do call('UNLINK', unpack(keys, from, min(#keys, from + 499))) end
    n, items = n + 1, items - 1 - #keys / 10
  end
  if n < nodes then plan_action(s, 'clean', why, n, shape); return items end
  for i = 0, steps - 1 do
    if why == 'purged' then call('UNLINK', step_key(s, i)) else call('EXPIRE', step_key(s, i), KEEP_S) end
  end
  plan_action(s, 'clean_streams', why, 0)
  return items - 1
end

-- The streams and counters that a study's hash tells of, when its plan does not.
local function drop_planless(s)
  if streams_of(s, 0) then return end
  local facts = call('HMGET', study_key(s), 'queues', 'class_count')
  for q in string.gmatch(facts[1] or '', '[^,]+') do
    call('UNLINK', study_key(s) .. ':queue:' .. q)
    for class = 0, min(max(whole(facts[2]), 1), 100) - 1 do
      call('UNLINK', stream_key(q, s, class))
      call('ZREM', root .. 'queue:' .. q, s .. ':' .. class)
    end
  end
end

function work.clean_streams(s, items, why, i)
  local parts = streams_of(s, i)
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
  drop_planless(s)
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
  worked_on[s] = true
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
