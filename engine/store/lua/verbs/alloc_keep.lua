-- alloc_keep: be the one who keeps an allocation's jobs, for some time; and read what is known of it.
--
-- ARGV[1] its name, [2] the keeper, [3] for how many milliseconds; 0: give it up, if it is ours.
-- Returns [word, terms, state, edition, request, keeper, now ms]; texts, empty where there is nothing. Words:
--   ok    it is ours until then   busy  another keeper's time has not ended   gone  there is no such allocation
-- Invariant: at most one keeper has time left. Who comes too late all the same is stopped by `alloc_note`. Idempotent.
-- Cost: O(1).

function verbs.alloc_keep(m, args)
  local key, keeper, length_ms = names.alloc(m.root, args[1]), args[2], tonumber(args[3])
  local now = clock.now_ms(m)
  local facts = space.fields(key, {'terms', 'state', 'edition', 'request', 'keeper', 'kept_until_ms'})
  if not facts.terms then return {'gone', '', '', '0', '', '', int(now)} end
  local is_busy = facts.keeper and facts.keeper ~= keeper and lenient(facts.kept_until_ms) > now
  if not is_busy and length_ms > 0 then
    redis.call('HSET', key, 'keeper', keeper, 'kept_until_ms', int(now + length_ms))
  elseif not is_busy then
    redis.call('HDEL', key, 'keeper', 'kept_until_ms')
  end
  return {is_busy and 'busy' or 'ok', facts.terms, facts.state or '', facts.edition or '0', facts.request or '',
    facts.keeper or '', int(now)}
end
