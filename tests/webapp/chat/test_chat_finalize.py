import uuid
from dataclasses import replace

from chat import answers
from chat.management.commands import finalize
from chat.models import Conversation, Message
from wire.messages import Finished, Timings, Usage


class Queue:
    """The records that ended, taken until they are acknowledged."""

    def __init__(self, *records):
        self.records = {str(number): record for number, record in enumerate(records)}

    def take(self, block_ms):
        return list(self.records.items())

    def acknowledge(self, numbers):
        for number in numbers:
            del self.records[number]


def record(gid, **more):
    plain = Finished(
        gid=str(gid),
        finish="stop",
        reason=None,
        text="Halo juga",
        ids=(1, 2),
        worker="worker",
        model="klepon-demo",
        adapter_sha="d278",
        usage=Usage(prompt_tokens=9, completion_tokens=2),
        timings=Timings(queued_ms=1.0, first_token_ms=2.0, total_ms=3.0, tokens_per_second=4.0),
    )
    return replace(plain, **more)


def waiting(user):
    conversation = Conversation.objects.create(owner=user, title="x")
    return Message.objects.create(conversation=conversation, role="assistant", state="queued", target="adapter")


def test_an_ended_answer_is_stored_with_where_it_came_from_and_acknowledged(user):
    message = waiting(user)
    queue = Queue(record(message.id))
    assert finalize.bring(queue) == 1
    message.refresh_from_db()
    assert (message.text, message.state, message.finish) == ("Halo juga", "ended", "stop")
    assert (message.model, message.adapter_sha, message.worker) == ("klepon-demo", "d278", "worker")
    assert message.usage == {"prompt_tokens": 9, "completion_tokens": 2}
    assert message.timings["tokens_per_second"] == 4.0
    assert queue.records == {}


def test_storing_twice_changes_nothing(user):
    message = waiting(user)
    for _ in range(2):
        assert answers.store(record(message.id))
    assert Message.objects.get().text == "Halo juga"


def test_the_answer_of_a_deleted_conversation_is_acknowledged_and_gone(user):
    queue = Queue(record(uuid.uuid4()))
    assert finalize.bring(queue) == 1
    assert queue.records == {} and not Message.objects.exists()


def test_a_record_never_overwrites_what_a_person_wrote(user):
    conversation = Conversation.objects.create(owner=user, title="x")
    message = Message.objects.create(conversation=conversation, role="user", text="Milikku")
    assert not answers.store(record(message.id))
    assert Message.objects.get().text == "Milikku"


def test_an_answer_that_ended_is_never_lost(user):
    message = waiting(user)
    answers.store(record(message.id))
    assert not answers.store_lost(str(message.id))
    assert Message.objects.get().state == "ended"


def test_the_end_of_an_answer_that_was_called_lost_is_still_kept(user):
    message = waiting(user)
    assert answers.store_lost(str(message.id))
    assert answers.store(record(message.id))
    assert Message.objects.get().state == "ended"


def test_a_nul_in_an_answer_can_be_stored_everywhere(user):
    message = waiting(user)
    answers.store(record(message.id, text="a\0b"))
    assert Message.objects.get().text == "a\ufffdb"
