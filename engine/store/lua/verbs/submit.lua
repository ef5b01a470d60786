-- submit: lay parts of a study down, unseen by anyone until `commit`.
--
-- ARGV[1] study, [2] seconds that staged keys live, [3] which hash: `plan`, `past` (what an earlier run brought to its end; see
--   release.lua), or `grown:<name>` (what changes of the plan of a study that runs), [4…] field, value, … of it.
-- Returns 'staged', or 'committed' if the study already is (then nothing is written).
-- Invariant: a study that was never committed leaves only keys with a TTL. Idempotent. Cost: O(fields).
-- Refused on a full server: that settles old studies, and takes no new ones.

function verbs.submit(m, args)
  clock.check_layout(m)
  local s, ttl_s, which = args[1], tonumber(args[2]), args[3]
  local growth = string.match(which, '^grown:(.+)$')
  local key = growth and names.growth(m.root, s, growth) or which == 'past' and names.past(m.root, s) or names.plan(m.root, s)
  if not growth and redis.call('EXISTS', names.study(m.root, s)) == 1 then return 'committed' end
  space.call('HSET', key, unpack(args, 4))
  local reply = redis.pcall('EXPIRE', key, ttl_s)
  if type(reply) == 'table' and reply.err then
    redis.call('UNLINK', key)
    error(reply, 0)
  end
  return 'staged'
end
