#!lua flags=allow-oom
-- alloc_keep: be the one who keeps an allocation's jobs, for some time; and read what is known of it.
--
-- KEYS[1] root; ARGV[1] its name, [2] the keeper, [3] for how many milliseconds; 0: give it up, if it is ours.
-- Returns [word, terms, state, edition, request, keeper, now ms]; texts, empty where there is nothing. Words:
--   ok    it is ours until then   busy  another keeper's time has not ended   gone  there is no such allocation
-- Invariant: at most one keeper has time left. Who comes too late all the same is stopped by `alloc_note`. Idempotent.
-- Cost: O(1).

local key, keeper, length_ms = root .. 'alloc:' .. ARGV[1], ARGV[2], tonumber(ARGV[3])
local now = now_ms()
local facts = call('HMGET', key, 'terms', 'state', 'edition', 'request', 'keeper', 'kept_until_ms')
if not facts[1] then return {'gone', '', '', '0', '', '', int(now)} end
local is_busy = facts[5] and facts[5] ~= keeper and tonumber(facts[6] or 0) > now
if not is_busy then
  if length_ms > 0 then
    call('HSET', key, 'keeper', keeper, 'kept_until_ms', int(now + length_ms))
  else
    call('HDEL', key, 'keeper', 'kept_until_ms')
  end
end
return {is_busy and 'busy' or 'ok', facts[1], facts[2] or '', facts[3] or '0', facts[4] or '', facts[5] or '', int(now)}
