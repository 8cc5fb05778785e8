"""For the test alone: kills the loader whose container it shares the processes of, with SIGKILL, when asked by POST."""

import http.server
import os
import signal

import psutil


class Killer(http.server.BaseHTTPRequestHandler):
    """Answers each POST with a killed loader; the container ends with it, and so does this process."""

    def do_POST(self) -> None:
        """Kill it."""
        self.send_response(202)
        self.end_headers()
        for process in psutil.process_iter(["cmdline"]):
            # not process 1, which is the container's init and holds the same words
            if process.pid != 1 and (process.info["cmdline"] or [])[-3:] == ["-m", "loader", "follow"]:
                os.kill(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    http.server.HTTPServer(("0.0.0.0", 9465), Killer).serve_forever()  # noqa: S104  on the compose network, which publishes no port of it
