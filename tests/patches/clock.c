/* A clock that counts from where it was set. */
static void clock_set(struct clock *clock, u64 value)
{
	u64 now = clock_now(clock);

	if (clock->stopped) {
		clock->origin = value;
	} else {
		/*
		 * A running clock goes on from the value,
		 * less what has passed.
		 */
		clock->origin = value - now;
	}
	clock->writes++;
}

static void clock_stop(struct clock *clock)
{
	clock->stopped = true;
	clock_update(clock);
}
