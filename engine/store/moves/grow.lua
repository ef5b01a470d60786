#!lua
-- grow: samples are added to a study that runs.
--
-- KEYS[1] root; ARGV[1] study, [2] its new edition: how many times samples were added to it, this time included,
--   [3] how many fields were staged under `study:<s>:grown:<name>` (the new `step:…` and sealed fields of its plan),
--   [4] msgpack [[step, 1 if nodes of other steps wait for one of its nodes as a whole, else 0], …]: the steps with
--   samples, [5] `steps` of the study's hash, anew, [6] a name that no other growth has.
-- Returns 'grown' (also when it already was, by this very one), 'incomplete' (staged fields expired), 'stale' (someone else added samples
--   meanwhile), 'passed' (something has begun that waited for all samples that there were), 'ended' (also when it is about
--   to), or 'gone'.
-- Invariant: whatever waits for all samples of a step waits for the added ones, too. Idempotent. Cost: O(steps with samples
--   + fields); their nodes are looked at in pieces.
-- No allow-oom: it makes a study larger.

local s, edition, fields = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local key = study_key(s)
local staged = key .. ':grown:' .. ARGV[6]
local study = call('HMGET', key, 'state', 'edition', 'growth')
local old_edition = whole(study[2])
local function without_staged(answer) call('UNLINK', staged); return answer end
if not study[1] then return without_staged('gone') end
-- Two who add samples at once both make the next edition: the second is told to begin anew.
if old_edition == edition and study[3] == ARGV[6] then return without_staged('grown') end
if study[1] ~= 'running' then return without_staged('ended') end
if old_edition ~= edition - 1 then return without_staged('stale') end
local grown = call('HGETALL', staged)
if #grown ~= 2 * fields then return 'incomplete' end

-- Nodes that were complete are so no more. What waits for such a node as a whole was told, and can't be called back.
local reopened, doomed = 0, {}
for _, pair in ipairs(cmsgpack.unpack(ARGV[4])) do
  local step = step_of(s, pair[1])
  if not step then damaged[s] = true; return without_staged('ended') end
  local done = whole(call('HGET', step_key(s, pair[1]), 'nodes_done'))
  if done > 0 and (pair[2] == 1 or (done == step.nodes and #step.after > 0)) then return without_staged('passed') end
  reopened = reopened + done
  if done > 0 then doomed[#doomed + 1] = step_key(s, pair[1]) end
end

call('HSET', key .. ':plan', unpack(grown))
call('UNLINK', staged)
plans = {}
for _, step in ipairs(doomed) do call('HDEL', step, 'nodes_done', 'is_doomed') end
call('HSET', key, 'edition', int(edition), 'growth', ARGV[6], 'steps', ARGV[5])
if reopened > 0 then call('HINCRBY', key, 'nodes_left', reopened) end
plan_action(s, 'added', 0, 0)
finish_move()
return 'grown'
