-- Claims, and how they end. `worker:<w>:claims` maps `<number>:<study>` to what a worker owns.

local claims = {}

function claims.study_of(claim) return string.match(claim, '^%d+:(.+)$') or '' end

-- A claim's row, or nil if the worker has none of that name. Raises if the row was damaged: then the claim is to be finished.
function claims.read(m, w, claim)
  local raw = space.call('HGET', names.worker_claims(m.root, w), claim)
  return raw and rows.read_claim(raw) or nil
end

function claims.write(m, w, claim, row)
  space.call('HSET', names.worker_claims(m.root, w), claim, rows.pack_claim(row.queue, row.resource_class, row.instance, row.step,
    row.lo, row.hi, row.attempt, row.losses, row.resume))
end

-- Claims that have ended in this move are dropped together, by claims.flush.
function claims.finish(m, w, claim)
  m.ended = m.ended or {}
  m.ended[w] = m.ended[w] or {}
  m.ended[w][#m.ended[w] + 1] = claim
end

function claims.flush(m)
  for w, ended in pairs(m.ended or {}) do space.call('HDEL', names.worker_claims(m.root, w), unpack(ended)) end
  m.ended = nil
end

-- Gives [lo, row.hi) of a claim back, and ends it if nothing of it is left. What was given back is put again, or dropped when
-- the study takes no more. `resume` is that of what is given back, if it is not the claim's.
local function give_back(m, st, w, claim, row, lo, losses, resume)
  if lo <= row.lo then claims.finish(m, w, claim) end
  local state, samples = studies.state(st), row.hi - lo
  if state ~= 'running' and state ~= 'stopping' then return end
  local instance = plan.instance(m, st, row.instance, row.step)
  counters.count(st, instance, 'running', -samples)
  if state == 'running' and samples == 1 and losses > row.losses and instance.max_losses > 0
    and losses >= instance.max_losses then
    release.bury(m, st, instance, lo, losses)
  elseif state == 'running' then
    local task = {lo = lo, hi = row.hi, attempt = row.attempt, losses = losses, resume = resume or row.resume}
    counters.count(st, instance, 'ready', samples)
    retries.count_lost(instance, task, samples)
    ready.put(m, st, instance, task)
  end
  if lo > row.lo then
    row.hi = lo
    claims.write(m, w, claim, row)
  end
  if studies.state(st) == 'stopping' then studies.plan(m, st, 'idle') end
end
claims.give_back = give_back

-- A claim comes back as it is, with so many losses more; `resumes` maps its `resume` to that of what is given back.
local function return_whole(m, s, w, claim, loss, resumes)
  local row = claims.read(m, w, claim)
  if row then give_back(m, studies.of(m, s), w, claim, row, row.lo, row.losses + loss, resumes and resumes[row.resume]) end
  return true
end

function claims.return_whole(m, w, claim, loss, resumes)
  local s = claims.study_of(claim)
  if not protect(m, s, return_whole, s, w, claim, loss, resumes) then claims.finish(m, w, claim) end
end
