#!lua
-- submit: lay parts of a study's plan down, unseen by anyone until `commit`.
--
-- KEYS[1] root; ARGV[1] study, [2] seconds that staged keys live, [3…] field, value, … of the plan.
-- Returns 'staged', or 'committed' if the study already is (then nothing is written).
-- Invariant: a study that was never committed leaves only keys with a TTL. Idempotent. Cost: O(fields).
-- No allow-oom: a server that is out of memory refuses new studies, not the settling of old ones.

local s, ttl_s = ARGV[1], tonumber(ARGV[2])
if call('EXISTS', study_key(s)) == 1 then return 'committed' end
local plan = study_key(s) .. ':plan'
call('HSET', plan, unpack(ARGV, 3))
call('EXPIRE', plan, ttl_s)
return 'staged'
