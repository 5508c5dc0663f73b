-- Tables and strings: words are made, counted, joined and split again; trees are built and dropped.
local rounds = tonumber(arg[1])
local state = 42

local function random(bound)
  state = (state * 1103515245 + 12345) % 2147483648
  return state // 65536 % bound
end

local function words(count)
  local list = {}
  for i = 1, count do
    list[i] = "w" .. random(5000) .. string.char(97 + random(26))
  end
  return list
end

local function count(list)
  local seen = {}
  for _, word in ipairs(list) do
    seen[word] = (seen[word] or 0) + 1
  end
  return seen
end

local function tree(depth)
  if depth == 0 then
    return { value = random(100) }
  end
  return { left = tree(depth - 1), right = tree(depth - 1), value = random(100) }
end

local function sum(node)
  return node.value + (node.left and sum(node.left) + sum(node.right) or 0)
end

local checksum = 0
for _ = 1, rounds do
  local list = words(20000)
  local text = table.concat(list, " ")
  local split = {}
  for word in text:gmatch("%S+") do
    split[#split + 1] = word:upper()
  end
  for _, times in pairs(count(split)) do
    checksum = checksum + times
  end
  checksum = checksum + sum(tree(13))
  checksum = checksum + #text:gsub("w%d", function(found) return found .. "!" end)
end
print("checksum=" .. checksum)
