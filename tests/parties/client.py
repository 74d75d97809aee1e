"""Python's MCP SDK as a client: lists tools and calls one. What the server says of its progress comes before the result.

    client.py URL ERA TOOL ARGUMENTS
"""

import asyncio
import json
import sys

from mcp import Client


async def progress(done, total, message):
    print("progress", done, flush=True)


async def main(url, era, tool, arguments):
    async with Client(url, mode=era) as client:
        tools = await client.list_tools()
        result = await client.call_tool(tool, json.loads(arguments), progress_callback=progress)
        said = [part.text for part in result.content if part.type == "text"]
        print(json.dumps({"tools": [tool.name for tool in tools.tools], "is_error": result.is_error, "said": said}))


asyncio.run(main(*sys.argv[1:]))
