"""OpenAI's and Anthropic's Python SDKs at the model gateway: whole and as streams, refused, and with an error of the provider's.

    models.py BASE

Each line says which call it was, what came, and the receipt: of the answer itself where it has one, else by its nonce.
"""

import json
import sys
import urllib.request

import anthropic
import openai

base = sys.argv[1]
chat = openai.OpenAI(base_url=f"{base}/v1", api_key="dummy")
claude = anthropic.Anthropic(base_url=base, api_key="dummy")
said = [{"role": "user", "content": "Say hello."}]


def named(nonce):
    return {"extra_headers": {"X-Idempotency-Key": nonce}}


def receipt(nonce):
    with urllib.request.urlopen(f"{base}/v1/receipt/{nonce}") as answer:
        return json.load(answer)["receipt_envelope"]


def tell(call, text, envelope, tokens=None):
    print(json.dumps({"call": call, "text": text, "receipt": envelope, "tokens": tokens}), flush=True)


def own(answer):
    return answer.model_extra["_receipt_envelope"]


done = chat.chat.completions.create(model="gpt-test", messages=said)
tell("py-chat", done.choices[0].message.content, own(done), [done.usage.prompt_tokens, done.usage.completion_tokens])
stream = chat.chat.completions.create(model="gpt-test", messages=said, stream=True, **named("py-chat-stream"))
text = "".join(part.choices[0].delta.content or "" for part in stream)
tell("py-chat-stream", text, receipt("py-chat-stream"))

done = chat.responses.create(model="gpt-test", input="Say hello.")
tell("py-responses", done.output_text, own(done), [done.usage.input_tokens, done.usage.output_tokens])
stream = chat.responses.create(model="gpt-test", input="Say hello.", stream=True, **named("py-responses-stream"))
text = "".join(part.delta for part in stream if part.type == "response.output_text.delta")
tell("py-responses-stream", text, receipt("py-responses-stream"))

done = claude.messages.create(model="claude-test", max_tokens=9, messages=said)
tell("py-messages", done.content[0].text, own(done), [done.usage.input_tokens, done.usage.output_tokens])
with claude.messages.stream(model="claude-test", max_tokens=9, messages=said, **named("py-messages-stream")) as stream:
    text = "".join(stream.text_stream)
tell("py-messages-stream", text, receipt("py-messages-stream"))

try:
    chat.chat.completions.create(model="other", messages=said)
except openai.PermissionDeniedError as error:
    tell("py-refused-chat", error.body["code"], None)
try:
    claude.messages.create(model="other", max_tokens=9, messages=said)
except anthropic.PermissionDeniedError as error:
    tell("py-refused-messages", error.body["error"]["code"], None)
try:
    chat.chat.completions.create(model="overloaded", messages=said, **named("py-error"))
except openai.BadRequestError as error:
    tell("py-error", error.body["message"], receipt("py-error"))
