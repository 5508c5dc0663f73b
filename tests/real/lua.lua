-- Tables, strings, closures, coroutines and a collector that runs all the time.
local state = 7

local function number(bound)
  state = (state * 1103515245 + 12345) % 2147483648
  return (state >> 8) % bound
end

local function sum(text)
  local total = 0
  for index = 1, #text do
    total = (total * 31 + text:byte(index)) % 4294967291
  end
  return total
end

collectgarbage("generational")

local words = {}
for index = 1, 200000 do
  local word = string.format("%x", number(20000))
  words[word] = (words[word] or 0) + index
end
local names = {}
for name in pairs(words) do
  names[#names + 1] = name
end
table.sort(names)
print("words", #names, sum(table.concat(names, " ")), words[names[1]])

local text = table.concat(names, "-")
local turned, count = text:gsub("(%a+)(%d+)", "%2%1")
print("patterns", count, sum(turned), #text:upper():rep(5, "/"))

local function tree(depth)
  if depth == 0 then
    return { value = number(100) }
  end
  return { left = tree(depth - 1), right = tree(depth - 1), name = tostring(depth) }
end

local function total(node)
  return node.value or total(node.left) + total(node.right) + #node.name
end

for round = 1, 8 do
  print("tree", round, total(tree(13)))
end

local producer = coroutine.wrap(function()
  for index = 1, 100000 do
    coroutine.yield(function() return index * 2 end)
  end
end)
local closures = 0
for _ = 1, 100000 do
  closures = closures + producer()()
end
print("closures", closures)

local big = {}
for index = 1, 300 do
  big[index] = string.rep(string.char(97 + index % 26), index * 997)
end
print("strings", sum(big[17]), #table.concat(big))
print("error", pcall(function() error(({ code = 5 }).code) end))
