-- Accounting, and what it releases: a sample is settled; its children are put, or skipped; and what waits for whole instances
-- or steps hears of those that are complete.

local release = {}

-- More samples of an instance failed than its step allows: the study stops.
local function keep_max_fails(m, st, instance, by)
  local most = instance.max_fails
  if type(most) == 'string' then
    most = tonumber(most)
    if not most then error('a damaged max_fails of its plan', 0) end
    most = math.floor(instance.size * most / 100)
  end
  if most >= 0 and counters.add(instance.hash, 'fails', by) > most then
    studies.stop(m, st, 'failed',
      'more than ' .. most .. ' samples of instance ' .. instance.number .. ' failed (max_fails)', false)
  end
end

-- What an instance counts of its samples, read at once.
function release.fetch(instance, lo)
  if instance.hash.known.settled ~= nil then return end
  counters.fetch(instance.hash, {'settled', 'blocking', 'done:' .. int(math.floor(lo / CHUNK)), 'pace_ms'})
end

-- The last sample of an instance is settled.
local function complete(m, st, instance)
  m.ended_instances = m.ended_instances + 1
  local step, i = plan.step(m, st, instance.step), instance.step
  counters.fetch(st.hash, {i .. ':complete', i .. ':is_doomed', 'instances_left'})
  local is_doomed = counters.get(instance.hash, 'blocking') == instance.size and 1 or 0
  if is_doomed == 1 then counters.set(st.hash, i .. ':is_doomed', 1) end
  if instance.all_parts > 0 then studies.plan(m, st, 'complete', instance.number, 0, is_doomed) end
  if counters.add(st.hash, i .. ':complete', 1) == step.instances then
    local doomed = counters.get(st.hash, i .. ':is_doomed')
    for _, child in ipairs(step.after) do studies.plan(m, st, 'barrier', child, 0, doomed) end
  end
  local left = counters.add(st.hash, 'instances_left', -1)
  if left < 0 then error('a missing count of its instances', 0) end
  if left == 0 then studies.finish(m, st) end
end

-- Settles [lo, hi) of an instance: marks, counts, and notes what that completes. `state` is the samples' last; `is_past` tells
-- that an earlier run brought them there.
function release.account(m, st, instance, lo, hi, state, is_blocking, is_past)
  -- First: if this is the study's last sample, the study ends below, and is to end as failed.
  if not is_past and (state == 'failed' or state == 'dead') then keep_max_fails(m, st, instance, hi - lo) end
  bits.mark(m, st, instance, 'done', lo, hi)
  if is_blocking then
    bits.mark(m, st, instance, 'bad', lo, hi)
    counters.add(instance.hash, 'blocking', hi - lo)
  end
  counters.count(st, instance, state, hi - lo)
  local settled = counters.add(instance.hash, 'settled', hi - lo)
  if settled > instance.size then error('a damaged count of settled samples', 0) end
  if settled == instance.size then complete(m, st, instance) end
end

-- Children of [lo, hi) are to hear that it is settled; with what adjoins it, if that was the last thing planned.
function release.tell_children(m, st, instance, lo, hi)
  if instance.each_parts == 0 or lo >= hi then return end
  local last = m.actions[#m.actions]
  local words = last and last.study == st.id and last.words
  if words and words[1] == 'settled' and words[2] == instance.number and words[3] == 0 and words[5] == lo then
    words[5] = hi
  else
    studies.plan(m, st, 'settled', instance.number, 0, lo, hi)
  end
end

local function settle_and_tell(m, st, instance, lo, hi, state, is_blocking, is_past)
  release.account(m, st, instance, lo, hi, state, is_blocking, is_past)
  release.tell_children(m, st, instance, lo, hi)
end

-- A sample is dead: it was lost too often.
function release.bury(m, st, instance, sample, losses)
  if instance.dead_flags % 4 >= 2 then
    studies.stop(m, st, 'failed', 'sample ' .. int(sample) .. ' of instance ' .. instance.number .. ' is dead', false)
  end
  studies.note_reason(m, st, instance, sample, 'lost ' .. losses .. ' workers')
  settle_and_tell(m, st, instance, sample, sample + 1, 'dead', instance.dead_flags % 2 == 1)
end

-- What an earlier run of the study brought to its end: finished; failed; failed and blocking; and what it did not, and this
-- one does not run either, which counts as cancelled. It lies in one hash, field `<n>:<c>:<kind>`: the number of bits, a blank,
-- and the bitmap (none when all bits are set).
local PAST_KINDS = {'past', 'pastf', 'pastb', 'pastc'}
local PAST_STATES = {past = 'finished', pastf = 'failed', pastb = 'failed', pastc = 'cancelled'}

local function load_past(m, st, instance, c)
  if counters.get(instance.hash, 'seen:' .. c) == 1 then return end
  counters.set(instance.hash, 'seen:' .. c, 1)
  for _, kind in ipairs(PAST_KINDS) do
    local field, key = instance.number .. ':' .. c .. ':' .. kind, names.past(m.root, st.id)
    local raw = redis.call('HGET', key, field)
    if raw then
      local have, bitmap = string.match(raw, '^(%d+) (.*)$')
      if not have then error('a damaged account of an earlier run', 0) end
      counters.set(instance.hash, kind .. ':' .. c, tonumber(have))
      if #bitmap > 0 then redis.call('SET', names.bits(m.root, st.id, kind, instance.number, c), bitmap) end
      redis.call('HDEL', key, field)
    end
  end
end

-- Where the stretch ends that begins at lo and is alike, and which kind of past it is, if any.
local function find_past(m, st, instance, lo, hi)
  local c, is_set = math.floor(lo / CHUNK), false
  hi = math.min(hi, (c + 1) * CHUNK)
  load_past(m, st, instance, c)
  for _, kind in ipairs(PAST_KINDS) do
    hi, is_set = bits.stretch(m, st, instance, kind, lo, hi)
    if is_set then return hi, kind end
  end
  return hi, nil
end

-- Is a sample-by-sample parent of [lo, hi) unsettled or blocking? Returns the end of the stretch that begins at lo and is
-- alike, and what it is: 'wait', 'skip', 'put', or a kind of past.
local function judge(m, st, instance, lo, hi)
  local is_set
  for _, p in ipairs(instance.each_parents) do
    hi, is_set = bits.stretch(m, st, plan.instance(m, st, p), 'done', lo, hi)
    if not is_set then return hi, 'wait' end
  end
  for _, p in ipairs(instance.each_parents) do
    hi, is_set = bits.stretch(m, st, plan.instance(m, st, p), 'bad', lo, hi)
    if is_set then return hi, 'skip' end
  end
  local kind
  if instance.has_past then hi, kind = find_past(m, st, instance, lo, hi) end
  return hi, kind or 'put'
end

local function put_new(m, st, instance, lo, hi)
  counters.count(st, instance, 'ready', hi - lo)
  ready.put(m, st, instance, {lo = lo, hi = hi, attempt = 0, losses = 0, resume = 0})
end

-- Puts, or skips, the samples of [lo, hi) whose parents are all settled, and that have not been put. Returns where it stopped
-- and what is left of `items`.
local function advance(m, st, instance, lo, hi, items)
  while lo < hi and items > 0 do
    local stop, verdict = hi, nil
    if instance.is_gated then
      local first = bits.find(m, st, instance, 'out', lo, hi, 0)
      if not first then return hi, items end
      lo, stop = first, bits.find(m, st, instance, 'out', first, hi, 1) or hi
    end
    stop, verdict = judge(m, st, instance, lo, stop)
    if verdict ~= 'wait' and instance.is_gated then bits.mark(m, st, instance, 'out', lo, stop) end
    if verdict == 'skip' then
      settle_and_tell(m, st, instance, lo, stop, 'skipped', true)
    elseif verdict == 'put' then
      put_new(m, st, instance, lo, stop)
    elseif PAST_STATES[verdict] then
      settle_and_tell(m, st, instance, lo, stop, PAST_STATES[verdict], verdict == 'pastb' or verdict == 'pastc', true)
    end
    lo, items = stop, items - 1
  end
  return lo, items
end

-- One of the things that this instance waits for is complete.
local function meet(m, st, instance, is_doomed)
  counters.fetch(instance.hash, {'met', 'is_doomed'})
  if is_doomed == 1 then counters.set(instance.hash, 'is_doomed', 1) end
  if counters.add(instance.hash, 'met', 1) < instance.waits then return end
  studies.plan(m, st, counters.get(instance.hash, 'is_doomed') == 1 and 'skip' or 'open', instance.number, 0)
end

-- May samples of this instance be put at all? Never those of an instance that is being skipped as a whole.
local function is_met(instance)
  if instance.waits == 0 then return true end
  counters.fetch(instance.hash, {'met', 'is_doomed'})
  return counters.get(instance.hash, 'met') >= instance.waits and counters.get(instance.hash, 'is_doomed') == 0
end

-- Samples [lo, hi) of instance n are settled: look at the children that go sample by sample, from the c-th part on.
function work.settled(m, st, items, n, c, lo, hi)
  local instance = plan.instance(m, st, n)
  while c < instance.each_parts do
    local children = plan.part(m, st, 'each:' .. n .. ':' .. c) or {}
    for at, child in ipairs(children) do
      local from, kid = hi, plan.instance(m, st, child)
      if is_met(kid) then from, items = advance(m, st, kid, lo, hi, items) end
      items = items - 1
      if from < hi then studies.plan(m, st, 'advance', child, from, hi) end
      if items <= 0 then
        -- What follows in this part goes one by one: a part is short.
        for j = at + 1, #children do studies.plan(m, st, 'advance', children[j], lo, hi) end
        if c + 1 < instance.each_parts then studies.plan(m, st, 'settled', n, c + 1, lo, hi) end
        return 0
      end
    end
    c = c + 1
  end
  return items
end

-- The same of several stretches: of `lengths`, from `lo` on, the first is settled, the second not, and so on. As one piece of
-- work: where every other sample is to run again, one for each would cost more than the samples do.
function work.settled_by_turns(m, st, items, n, lo, lengths)
  for i = 1, #lengths, 2 do
    if items <= 0 then
      studies.plan(m, st, 'settled_by_turns', n, lo, {unpack(lengths, i)})
      return 0
    end
    items = work.settled(m, st, items, n, 0, lo, lo + lengths[i])
    lo = lo + lengths[i] + (lengths[i + 1] or 0)
  end
  return items
end

function work.advance(m, st, items, n, lo, hi)
  local instance = plan.instance(m, st, n)
  if not is_met(instance) then return items - 1 end
  local from, left = advance(m, st, instance, lo, hi, items)
  if from < hi then studies.plan(m, st, 'advance', n, from, hi) end
  return left - 1
end

-- Every sample of instance n is settled: its other children have one thing less to wait for.
function work.complete(m, st, items, n, c, is_doomed)
  for _, child in ipairs(plan.part(m, st, 'all:' .. n .. ':' .. c) or {}) do
    meet(m, st, plan.instance(m, st, child), is_doomed)
    items = items - 1
  end
  if c + 1 < plan.instance(m, st, n).all_parts then studies.plan(m, st, 'complete', n, c + 1, is_doomed) end
  return items
end

-- Every instance of a parent step is settled: so for every instance of step i, from its k-th on.
function work.barrier(m, st, items, i, k, is_doomed)
  local step = plan.step(m, st, i)
  while k < step.instances and items > 0 do
    meet(m, st, plan.instance(m, st, step.first_instance + k, i), is_doomed)
    k, items = k + 1, items - 1
  end
  if k < step.instances then studies.plan(m, st, 'barrier', i, k, is_doomed) end
  return items
end

-- How many samples an instance had when it was opened, or skipped as a whole: what is added later is put by `added`. `upto` is
-- what the first piece of this work was to reach, and must be kept to: a later size is not its business.
local function opened_size(instance, upto)
  if not upto then counters.set(instance.hash, 'opened', instance.size) end
  return upto or instance.size
end

function work.open(m, st, items, n, lo, upto)
  local instance = plan.instance(m, st, n)
  upto = opened_size(instance, upto)
  if #instance.each_parents == 0 and not instance.has_past then
    put_new(m, st, instance, lo, upto)
    return items - 1
  end
  local left
  lo, left = advance(m, st, instance, lo, upto, items)
  if lo < upto then studies.plan(m, st, 'open', n, lo, upto) end
  return left - 1
end

-- A whole instance is skipped, one chunk of bits at a time.
function work.skip(m, st, items, n, lo, upto)
  local instance = plan.instance(m, st, n)
  upto = opened_size(instance, upto)
  local hi = math.min(upto, lo + CHUNK)
  if instance.is_gated and #instance.each_parents > 0 then bits.mark(m, st, instance, 'out', lo, hi) end
  settle_and_tell(m, st, instance, lo, hi, 'skipped', true)
  if hi < upto then studies.plan(m, st, 'skip', n, hi, upto) end
  return items - 1
end

-- Calls `on_instance` for the instances of step i, from the k-th on, and of the steps behind it, as far as `items` go.
local function walk(m, st, items, name, i, k, on_instance)
  if not plan.has_step(m, st, i) then return items end
  local step = plan.step(m, st, i)
  while k < step.instances and items > 0 do
    items = on_instance(plan.instance(m, st, step.first_instance + k, i), items) - 0.25
    k = k + 1
  end
  if k < step.instances then studies.plan(m, st, name, i, k) else studies.plan(m, st, name, i + 1, 0) end
  return items - 0.25
end

-- Samples were added: those of instances that were opened before follow. Instances that go sample by sample with a parent hear
-- of theirs when the parent's are settled.
function work.added(m, st, items, i, k)
  return walk(m, st, items, 'added', i, k, function(instance, left)
    counters.fetch(instance.hash, {'opened', 'is_doomed'})
    if not counters.text(instance.hash, 'opened') then return left end
    local from, is_doomed = counters.get(instance.hash, 'opened'), counters.get(instance.hash, 'is_doomed') == 1
    if from >= instance.size then return left end
    if not is_doomed and #instance.each_parents > 0 then return left end
    counters.set(instance.hash, 'opened', instance.size)
    studies.plan(m, st, is_doomed and 'skip' or 'open', instance.number, from, instance.size)
    return left - 1
  end)
end

-- The study begins: every instance that waits for nothing.
function work.roots(m, st, items, i, k)
  return walk(m, st, items, 'roots', i, k, function(instance, left)
    if instance.waits > 0 or #instance.each_parents > 0 then return left end
    return work.open(m, st, left, instance.number, 0)
  end)
end
