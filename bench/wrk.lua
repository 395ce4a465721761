-- Sends the requests of a file in their order, and prints what bench/load.py reads. Run with one thread (-t1):
-- wrk -t1 -c32 -d2s -s bench/wrk.lua URL -- FILE

local requests, number = {}, 0

function init(arguments)
   local file = assert(io.open(arguments[1], "rb"))
   for request in file:read("*a"):gmatch("([^%z]+)%z") do
      requests[#requests + 1] = request
   end
   file:close()
   once = arguments[2] == "once"
end

function request()
   number = number + 1
   if once and number >= #requests then
      wrk.thread:stop()
      number = #requests
   end
   return requests[(number - 1) % #requests + 1]
end

function done(summary, latency, _)
   local errors = summary.errors
   io.write(string.format(
      '{"requests": %d, "seconds": %.6f, "errors": %d, "broken": %d, "p50_ms": %.3f, "p99_ms": %.3f}\n',
      summary.requests, summary.duration / 1e6, errors.status,
      errors.connect + errors.read + errors.write + errors.timeout,
      latency:percentile(50) / 1e3, latency:percentile(99) / 1e3
   ))
end
