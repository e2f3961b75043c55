-- Cycles over the requests made from a file of pairs, and ends with one line of JSON.
-- Arguments: pairs file; method, path template and body template of each call, which the pairs take in turn.

local requests, next_index = {}, 0

local function fill(template, values)
  return (template:gsub("{(%w+)}", values))
end

function init(args)
  local count, number = math.max(1, math.floor((#args - 1) / 3)), 0
  for line in io.lines(args[1]) do
    local token, id, user = line:match("^(.-)\t(.-)\t(.-)$")
    local first = 2 + number % count * 3
    local method, path, body = args[first], args[first + 1], args[first + 2] or ""
    number = number + 1
    local values = { id = id, user = user, n = tostring(number) }
    local headers = { ["Authorization"] = "Bearer " .. token }
    local content = nil
    if body ~= "" then
      headers["Content-Type"] = "application/json"
      content = fill(body, values)
    end
    requests[number] = wrk.format(method, fill(path, values), headers, content)
  end
  -- Each run starts somewhere else, so that short runs do not all meet the same rows.
  math.randomseed(os.time())
  next_index = math.random(#requests) - 1
end

function request()
  next_index = next_index % #requests + 1
  return requests[next_index]
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, '
      .. '"errors": {"connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
