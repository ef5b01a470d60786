-- Claims, and the workers that hold them.
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
        local queue, member = root .. 'queue:' .. r.queue, r.s .. ':' .. r.class
        -- An entry of which somebody held a claim, and that is not there, was deleted from outside: with others, maybe.
        if call('XDEL', stream, r.entry) == 0 and call('ZSCORE', queue, member) then fail_planless(r.s) end
        if call('XLEN', stream) == 0 then
          call('UNLINK', stream)
          call('SREM', streams_key(w), stream)
          call('ZREM', queue, member)
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

-- A worker's claims whose records can't be read: entries of which more claims are counted than there are records. Which
-- samples they held nobody can tell, and they would be running for ever: their studies fail, and end now. O(claims held).
local function fail_damaged(w)
  drop_ended()
  local held, missing = held_key(w), {}
  local fields = call('HGETALL', held)
  for i = 1, #fields, 2 do
    local field = fields[i]
    local r = read_claim(w, field)
    local shared = r and '=' .. r.queue .. ' ' .. r.s .. ' ' .. r.class .. ' ' .. r.entry or field
    if string.sub(field, 1, 1) == '=' then
      missing[field] = (missing[field] or 0) + (tonumber(fields[i + 1]) or 1)
    elseif r then
      missing[shared] = (missing[shared] or 0) - 1
    else
      call('HDEL', held, field)
    end
  end
  for shared, n in pairs(missing) do
    local queue, s, class, entry = string.match(shared, '^=(.*) (%S+) (%d+) (%S+)$')
    if n > 0 and s then
      local stream = stream_key(queue, s, class)
      -- pcall: it may be gone, or another thing.
      redis.pcall('XACK', stream, 'workers', entry)
      redis.pcall('XDEL', stream, entry)
      call('HDEL', held, shared)
      fail_planless(s)
      end_study(s)
    end
  end
end

-- Everything that a worker leaves behind. `loss` is 1 if its claims count as lost. At most `most` claims; returns whether it
-- is gone, and how many claims more the caller may give back.
-- Of one that was believed dead (`is_dead`) all may have been started, also what is not counted as a loss; and the last token of
-- its claims is kept for an hour: it may come back, and so may a late copy of a request of its, which would claim what nobody
-- would hear of.
local TOKEN_KEPT_S = 3600
-- What `resume` becomes of what was left behind.
local LEFT = {[0] = 2, [1] = 3, [2] = 2, [3] = 3}
local function remove_worker(w, loss, most, is_dead)
  for _, field in ipairs(call('HKEYS', held_key(w))) do
    if string.sub(field, 1, 1) ~= '=' then
      if most <= 0 then return false, 0 end
      local r = read_claim(w, field)
      if r then give_back(w, field, r, r.lo, r.losses + loss, is_dead and LEFT[r.resume]) end
      most = most - 1
    end
  end
  fail_damaged(w)
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
  local worker = root .. 'worker:' .. w
  local token = is_dead and call('HGET', worker, 'claim_token')
  call('UNLINK', worker, held_key(w), worker .. ':bell')
  if token then
    call('HSET', worker, 'claim_token', token, 'claim_answer', cmsgpack.pack({'unknown', {}, 0, -1, 0}))
    call('EXPIRE', worker, TOKEN_KEPT_S)
  end
  call('ZREM', root .. 'workers', w)
  call('ZREM', root .. 'leases', w)
  return true, most
end

-- Who tends, and until when unless it sweeps again, by the store's time: a key that expires lives on when the clock is set back.
local function tender()
  local end_ms, w = string.match(call('GET', root .. 'tend') or '', '^(%d+) (%S+)')
  return end_ms and tonumber(end_ms) > now_ms() and w or nil
end
-- With the length of its lease: the worker with the longest one tends. Who has a shorter one looks more often, and follows soon
-- on a tender that died; the others, idle, may look only after the lease of one with a short lease has ended.
local function lease_of(w) return whole(call('ZSCORE', root .. 'leases', w)) end
local function tend(w, sweep_ms)
  call('SET', root .. 'tend', int(now_ms() + 2 * sweep_ms) .. ' ' .. w .. ' ' .. int(lease_of(w)))
end
-- The worker that is to tend, asked for by w, which knows of itself that it lives.
local function best_tender(w)
  local other = tender()
  return other and other ~= w and lease_of(other) >= lease_of(w) and other or w
end

-- Forget a study: from here on every move answers `gone` for it; its keys are deleted in pieces.
local function forget_study(s)
  local key = study_key(s)
  states[s], worked_on[s] = false, true
  local nodes, steps, samples = shape_of(s)
  for i = 0, steps - 1 do call('UNLINK', step_key(s, i)) end
  drop_planless(s)
  call('UNLINK', key, key .. ':todo', key .. ':reasons')
  call('ZREM', root .. 'studies', s)
  call('ZREM', root .. 'todo', s)
  -- A commit whose reply was lost may come again: let it find the plan incomplete.
  call('HDEL', key .. ':plan', 'sealed:plan')
  plan_action(s, 'wake')
  plan_action(s, 'clean', 'purged', 0, {nodes, steps, samples})
end

-- What nobody may ever come by, so that only a sweep can tell: a study whose hash was deleted from outside, or says nothing that
-- can be; one that runs, and of which nothing is ready, claimed, to be retried or to be done, so that it can't come to its end;
-- and one that waits for the end of a study that has ended.
local ENDED = {finished = true, failed = true, cancelled = true}
local function look_after(s)
  local key = study_key(s)
  local study = call('HMGET', key, 'state', 'running', 'is_held', 'after')
  local state = study[1]
  if ENDED[state] then return end
  if state ~= 'running' and state ~= 'stopping' then
    -- The plan goes before the hash of one that has ended. So this one had not.
    if call('EXISTS', key .. ':plan') == 0 then return end
    call('HSET', key, 'state', 'stopping', 'outcome', 'failed', 'why', LOST)
    local _, steps = shape_of(s)
    call('HSET', key, 'step_count', int(steps))
    call('HSETNX', key, 'steps', '[]')
    call('HSETNX', key, 'queued_at_ms', int(whole(call('ZSCORE', root .. 'studies', s))))
    end_study(s)
    return
  end
  if study[3] == '1' and study[4] and study[4] ~= '' then
    local other = call('HGET', study_key(study[4]), 'state')
    if other ~= 'running' and other ~= 'stopping' then
      call('HSET', key, 'is_held', 0, 'after', '')
      plan_action(s, 'rescore', 0)
    end
  end
  local parts, i = streams_of(s, 0), 0
  if not parts or not step_of(s, 0) then return fail_planless(s) end
  if whole(study[2]) > 0 or call('EXISTS', key .. ':todo') == 1 then return end
  if state == 'running' and call('EXISTS', key .. ':later') == 1 then return end
  while parts do
    for _, pair in ipairs(parts) do
      if state == 'running' and call('EXISTS', stream_key(pair[1], s, pair[2])) == 1 then return end
    end
    i = i + 1
    parts = streams_of(s, i)
  end
  fail_planless(s)
end
