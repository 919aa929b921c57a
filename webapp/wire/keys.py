"""The names of the keys. Scripts build some of them too, so Redis is one server (or a primary), never a cluster."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Keys:
    """Every key of one chat; two chats with different prefixes can share a Redis."""

    prefix: str = "c"

    @property
    def shared(self) -> str:
        """What the keys begin with that scripts build."""
        return f"{{{self.prefix}}}"

    @property
    def wait(self) -> str:
        """Sorted set of waiting generations by order of arrival: the rank is the position in the queue."""
        return f"{self.shared}:wait"

    @property
    def leases(self) -> str:
        """Sorted set of running generations by the time (ms) at which their worker's lease ends."""
        return f"{self.shared}:leases"

    @property
    def jobs(self) -> str:
        """Stream that wakes idle workers; it says that there is work, never whose it is."""
        return f"{self.shared}:jobs"

    @property
    def looks(self) -> str:
        """List of answers that somebody wants to look at token by token."""
        return f"{self.shared}:looks"

    def seen(self, look: str) -> str:
        """What a worker saw there, as JSON."""
        return f"{self.shared}:seen:{look}"

    @property
    def pace(self) -> str:
        """Moving average of the milliseconds that an answer takes."""
        return f"{self.shared}:pace"

    @property
    def workers(self) -> str:
        """Sorted set of workers by the time (ms) of their last heartbeat."""
        return f"{self.shared}:workers"

    @property
    def done(self) -> str:
        """Stream of final records, with the consumer group `fin`."""
        return f"{self.prefix}:done"

    def generation(self, gid: str) -> str:
        """Hash: user, spec (the request), state, epoch, owner, cancel, takeovers, place, enqueued, claimed, idem."""
        return f"{self.shared}:gen:{gid}"

    def idempotency(self, user: str, client_id: str) -> str:
        """The generation that this user's client already asked for by this id."""
        return f"{self.shared}:idem:{user}:{client_id}"

    def worker(self, name: str) -> str:
        """A worker's last heartbeat, as JSON."""
        return f"{self.shared}:worker:{name}"

    def events(self, gid: str) -> str:
        """Stream of one generation's events."""
        return f"{self.prefix}:ev:{gid}"

    def control(self, process: str) -> str:
        """Stream that wakes the blocked read of one site process."""
        return f"{self.prefix}:ctl:{process}"
