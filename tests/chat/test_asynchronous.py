"""The asyncio conversation says what the other one says, blocks nobody, and stops when it is told to."""

import asyncio

import pytest

from video_llama.errors import MediaError

QUESTIONS = ("What do you see?", "And then?")


def test_says_what_chat_says(assistant, clips):
    chat = assistant.chat(clips["video"], no_audio=True)
    expected = [chat.ask(question, max_new_tokens=8) for question in QUESTIONS]

    async def talk():
        chat = await assistant.achat(clips["video"], no_audio=True)
        first = [piece async for piece in chat.stream(QUESTIONS[0], max_new_tokens=8)]
        return first, await chat.ask(QUESTIONS[1], max_new_tokens=8)

    first, second = asyncio.run(talk())
    assert "".join(first) == expected[0].text
    assert second.text == expected[1].text
    assert second.record.tokens == expected[1].record.tokens


def test_event_loop_goes_on(assistant, clips):
    async def talk():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        chats = await asyncio.gather(*(assistant.achat(clips["image"]) for _ in range(2)))
        answers = await asyncio.gather(*(chat.ask(QUESTIONS[0], max_new_tokens=8) for chat in chats))
        ticking.cancel()
        return ticks, answers

    ticks, answers = asyncio.run(talk())
    assert ticks > 10
    assert answers[0].text == answers[1].text == assistant.chat(clips["image"]).ask(QUESTIONS[0], max_new_tokens=8).text


def test_left_early_and_cancelled(assistant, clips):
    async def talk():
        chat = await assistant.achat(clips["image"])
        async for _ in chat.stream(QUESTIONS[0], max_new_tokens=100):
            break
        asking = asyncio.create_task(chat.ask(QUESTIONS[1], max_new_tokens=100))
        await asyncio.sleep(0)  # it has begun
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await chat.reset()
        return await chat.ask(QUESTIONS[0], max_new_tokens=8)

    assert asyncio.run(talk()).text == assistant.chat(clips["image"]).ask(QUESTIONS[0], max_new_tokens=8).text


def test_errors_are_those_of_chat(assistant):
    with pytest.raises(MediaError, match=r"missing\.mp4 does not exist"):
        asyncio.run(assistant.achat("missing.mp4"))
