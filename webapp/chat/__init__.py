"""The chat: conversations as message trees, the pages that show them, and the controller of the WebSocket."""
