# Read by both scripts of `simulate`: some days, with a checkpoint after each. Two units are gained a day.
days_left=${DAYS_AT_ONCE:?}
while [ "$(cat day.txt)" -lt "${LAST_DAY:?}" ]; do
    [ "$days_left" -gt 0 ] || exit 100        # as $(MERLIN_RESTART): here mrun puts nothing in
    echo $(($(cat state.txt) + 2)) > state.txt
    echo $(($(cat day.txt) + 1)) > day.txt
    days_left=$((days_left - 1))
done
echo "the last day is done"
